/* Tries: clears the read-only attribute of /usr
 * Must:  EPERM
 * See:   mount_setattr(2) */
#include "attempt.h"

int main(void)
{
    const uint64_t attributes[4] = {0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0};
    attempt("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/usr", 0, attributes, sizeof attributes));
    reached("/usr is writable");
}
