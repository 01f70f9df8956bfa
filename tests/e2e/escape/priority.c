/* Tries: takes precedence over every other process
 * Must:  EACCES EPERM
 * See:   setpriority(2) */
#include "attempt.h"

#include <sys/resource.h>

int main(void)
{
    attempt("setpriority", setpriority(PRIO_PROCESS, 0, -20));
    reached("priority -20");
}
