/* Tries: keeps a key in the kernel, where it would outlive the job
 * Must:  EPERM
 * See:   add_key(2), keyrings(7) */
#include "attempt.h"

int main(void)
{
    attempt("add_key", syscall(SYS_add_key, "user", "jbtest", "x", 1, -2 /* KEY_SPEC_PROCESS_KEYRING */));
    reached("a key");
}
