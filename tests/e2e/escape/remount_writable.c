/* Tries: makes the read-only /usr writable by a remount
 * Must:  EPERM
 * See:   mount(2), MS_REMOUNT */
#include "attempt.h"

#include <sys/mount.h>

int main(void)
{
    attempt("remount", mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL));
    reached("/usr is remounted");
}
