/* Tries: mounts a file system of its own
 * Must:  EPERM
 * See:   mount(2) */
#include "attempt.h"

#include <sys/mount.h>

int main(void)
{
    attempt("mount", mount("jbtest", "/tmp", "tmpfs", 0, NULL));
    reached("a tmpfs is mounted");
}
