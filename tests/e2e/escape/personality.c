/* Tries: turns address randomisation off
 * Must:  EPERM
 * See:   personality(2), ADDR_NO_RANDOMIZE */
#include "attempt.h"

#include <sys/personality.h>

int main(void)
{
    attempt("personality", personality(ADDR_NO_RANDOMIZE));
    reached("addresses are not random");
}
