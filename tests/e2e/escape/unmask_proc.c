/* Tries: takes away what is mounted over /proc/sys
 * Must:  EPERM
 * See:   umount(2) */
#include "attempt.h"

#include <sys/mount.h>

int main(void)
{
    attempt("umount2", umount2("/proc/sys", MNT_DETACH));
    reached("/proc/sys is uncovered");
}
