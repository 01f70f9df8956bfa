/* Tries: signals the job's init
 * Must:  EPERM
 * See:   kill(2) */
#include "attempt.h"

#include <signal.h>

int main(void)
{
    attempt("kill", kill(1, 0));
    reached("init can be signalled");
}
