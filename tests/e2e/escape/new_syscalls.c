/* Tries: uses a call that is newer than the filter
 * Must:  ENOSYS
 * See:   fchmodat2(2), Linux 6.6; a list of what is forbidden never has the newest */
#include "attempt.h"

int main(void)
{
    close((int)attempt("open", open("/tmp/file", O_CREAT | O_RDWR, 0600)));
    attempt("fchmodat2", syscall(452, AT_FDCWD, "/tmp/file", 0600, 0));
    reached("a new call");
}
