/* The functions of a C library that a compiler calls by itself, for programs without one. They are weak: those of a C
   library, or of the program, replace them. They are short rather than fast. */

#include <stddef.h>

#define SBNN_WEAK __attribute__((weak, visibility("default")))

SBNN_WEAK void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    unsigned char *restrict target = to;
    const unsigned char *restrict source = from;
    while (bytes-- > 0)
        *target++ = *source++;
    return to;
}

SBNN_WEAK void *memmove(void *to, const void *from, size_t bytes)
{
    unsigned char *target = to;
    const unsigned char *source = from;
    if (target < source)
        while (bytes-- > 0)
            *target++ = *source++;
    else
        while (bytes-- > 0)
            target[bytes] = source[bytes];
    return to;
}

SBNN_WEAK void *memset(void *to, int value, size_t bytes)
{
    unsigned char *target = to;
    while (bytes-- > 0)
        *target++ = (unsigned char)value;
    return to;
}

#if defined(__ARM_EABI__) || defined(__arm__)
/* Run-time ABI for the Arm architecture, section 4.3.4: memset has its arguments in another order. The variants 4 and 8
   are for aligned memory. */

SBNN_WEAK void __aeabi_memcpy(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
SBNN_WEAK void __aeabi_memcpy4(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
SBNN_WEAK void __aeabi_memcpy8(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
SBNN_WEAK void __aeabi_memmove(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); }
SBNN_WEAK void __aeabi_memmove4(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); }
SBNN_WEAK void __aeabi_memmove8(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); }
SBNN_WEAK void __aeabi_memset(void *to, size_t bytes, int value) { memset(to, value, bytes); }
SBNN_WEAK void __aeabi_memset4(void *to, size_t bytes, int value) { memset(to, value, bytes); }
SBNN_WEAK void __aeabi_memset8(void *to, size_t bytes, int value) { memset(to, value, bytes); }
SBNN_WEAK void __aeabi_memclr(void *to, size_t bytes) { memset(to, 0, bytes); }
SBNN_WEAK void __aeabi_memclr4(void *to, size_t bytes) { memset(to, 0, bytes); }
SBNN_WEAK void __aeabi_memclr8(void *to, size_t bytes) { memset(to, 0, bytes); }
#endif
