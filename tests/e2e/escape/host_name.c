/* Tries: renames the machine
 * Must:  EPERM
 * See:   sethostname(2) */
#include "attempt.h"

int main(void)
{
    char name[65] = {0};
    gethostname(name, sizeof name - 1);
    attempt("sethostname", sethostname(name, strlen(name)));
    reached("the host name");
}
