/* Tries: finds a key in the session keyring of whoever started the executor
 * Must:  EPERM
 * See:   keyctl(2), KEYCTL_SEARCH; session-keyring(7) */
#include "attempt.h"

int main(void)
{
    attempt("keyctl", syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, -3, "user", "jbtest", 0));
    reached("a key of the executor");
}
