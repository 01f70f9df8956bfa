/* Tries: turns process accounting on, to a file that does not exist
 * Must:  EPERM
 * See:   acct(2) */
#include "attempt.h"

int main(void)
{
    past_permission("acct", syscall(SYS_acct, "/nonexistent/jbtest"), ENOENT);
}
