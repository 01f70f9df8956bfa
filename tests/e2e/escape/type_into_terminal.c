/* Tries: types into a terminal, as if its user had
 * Must:  EPERM
 * See:   ioctl_tty(2), TIOCSTI; CVE-2017-5226 */
#include "attempt.h"

#include <sys/ioctl.h>
#include <sys/wait.h>

int main(void)
{
    int master = (int)attempt("posix_openpt", posix_openpt(O_RDWR | O_NOCTTY));
    int status;
    attempt("unlockpt", unlockpt(master));
    int terminal = (int)attempt("open", open(ptsname(master), O_RDWR | O_NOCTTY));
    if (fork() == 0) {
        setsid();
        ioctl(terminal, TIOCSCTTY, 0);
        attempt("TIOCSTI", ioctl(terminal, TIOCSTI, "x"));
        reached("a typed character");
    }
    wait(&status);
    return WEXITSTATUS(status);
}
