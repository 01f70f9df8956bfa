/* Tries: makes a user namespace of its own, in which it has every capability, and mounts
 * Must:  EPERM
 * See:   user_namespaces(7); CVE-2022-0185, CVE-2023-0386 and many others begin so */
#include "attempt.h"

#include <sched.h>
#include <sys/mount.h>

int main(void)
{
    attempt("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNS));
    attempt("mount", mount("jbtest", "/tmp", "tmpfs", 0, NULL));
    reached("a tmpfs is mounted");
}
