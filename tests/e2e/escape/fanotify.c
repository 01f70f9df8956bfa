/* Tries: watches the files of the machine through a directory that is shared with it
 * Must:  EPERM
 * See:   fanotify_init(2) */
#include "attempt.h"

#include <sys/fanotify.h>

int main(void)
{
    int group = (int)attempt("fanotify_init", syscall(SYS_fanotify_init, FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY));
    attempt("fanotify_mark", syscall(SYS_fanotify_mark, group, FAN_MARK_ADD, (uint64_t)FAN_MODIFY, AT_FDCWD, "/tmp"));
    reached("files are watched");
}
