/* Tries: mounts by fsopen, fsconfig, fsmount and move_mount, which filters for mount(2) alone forget
 * Must:  EPERM
 * See:   fsopen(2), move_mount(2) */
#include "attempt.h"

int main(void)
{
    int context = (int)attempt("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    attempt("fsconfig", syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0));
    int mount = (int)attempt("fsmount", syscall(SYS_fsmount, context, 0, 0));
    attempt("move_mount", syscall(SYS_move_mount, mount, "", AT_FDCWD, "/tmp", 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
    reached("a tmpfs is mounted");
}
