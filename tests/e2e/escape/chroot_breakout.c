/* Tries: leaves a chroot by a second one while a directory above stays open
 * Must:  EPERM
 * See:   chroot(2), NOTES */
#include "attempt.h"

#include <sys/stat.h>

int main(void)
{
    mkdir("/tmp/jail", 0700);
    mkdir("/tmp/jail/inner", 0700);
    attempt("chroot", chroot("/tmp/jail"));
    int above = (int)attempt("open", open("/", O_RDONLY | O_DIRECTORY));
    attempt("chroot", chroot("/inner"));
    attempt("fchdir", fchdir(above));
    for (int i = 0; i < 8; i++)
        attempt("chdir", chdir(".."));
    attempt("chroot", chroot("."));
    attempt("access", access("/usr", F_OK));
    reached("outside of the jail");
}
