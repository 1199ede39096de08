/* Source: "Semihosting for AArch32 and AArch64", github.com/ARM-software/abi-aa. */

#include "semihosting.h"

#include <stdint.h>

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_EXIT_EXTENDED = 0x20 };

enum { MODE_WRITE = 4 };                 /* "w"; of the file ":tt" it opens the standard output */
enum { APPLICATION_EXIT = 0x20026 };     /* ADP_Stopped_ApplicationExit */

static intptr_t call_host(intptr_t operation, const void *arguments)
{
    register intptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void host_write(const void *data, size_t bytes)
{
    static intptr_t output;
    if (output == 0) {
        const uintptr_t open[3] = {(uintptr_t)":tt", MODE_WRITE, 3};
        output = call_host(SYS_OPEN, open);
    }
    while (bytes > 0) {
        const uintptr_t write[3] = {(uintptr_t)output, (uintptr_t)data, bytes};
        const size_t left = (size_t)call_host(SYS_WRITE, write); /* what the host did not take yet */
        data = (const char *)data + (bytes - left);
        bytes = left;
    }
}

_Noreturn void host_exit(int code)
{
    const uintptr_t exit[2] = {APPLICATION_EXIT, (uintptr_t)code};
    for (;;)
        call_host(SYS_EXIT_EXTENDED, exit);
}

void print(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0')
        length++;
    host_write(text, length);
}

void print_number(unsigned long number)
{
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    host_write(digits + first, sizeof digits - first);
}
