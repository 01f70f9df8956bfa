/* Tries: sends packets with forged addresses
 * Must:  EPERM
 * See:   raw(7) */
#include "attempt.h"

#include <netinet/in.h>
#include <sys/socket.h>

int main(void)
{
    attempt("socket", socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    reached("a raw socket");
}
