/* Tries: traces the job's init, which has more privileges
 * Must:  EPERM
 * See:   ptrace(2) */
#include "attempt.h"

#include <sys/ptrace.h>

int main(void)
{
    attempt("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, 1, NULL, NULL));
    reached("init is traced");
}
