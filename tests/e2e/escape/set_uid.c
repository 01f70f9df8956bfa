/* No trick but the set-uid program: says as whom it runs. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("%u\n", geteuid());
}
