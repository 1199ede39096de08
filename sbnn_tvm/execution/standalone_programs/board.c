/* A program on an emulated board with a Cortex-M: its start, and the host's files through semihosting.

   Sources: Armv7-M Architecture Reference Manual, B1.5 and B3.2; "Semihosting for AArch32 and AArch64". */

#include "host.h"

#include <stdint.h>

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { FOR_READING = 0, FOR_WRITING = 4, FOR_APPENDING = 8 }; /* of the file ":tt": standard input, output, error */
enum { APPLICATION_EXIT = 0x20026 };

extern uint32_t bss_start[], bss_end[], stack_top[]; /* set by the linker script */
extern unsigned char memory_start[], memory_end[];

int main(void);
static _Noreturn void reset(void);
static _Noreturn void fault(void);

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
};

static intptr_t call_host(intptr_t operation, const void *arguments)
{
    register intptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static intptr_t standard_file(uintptr_t mode)
{
    const uintptr_t open[3] = {(uintptr_t)":tt", mode, 3};
    return call_host(SYS_OPEN, open);
}

static _Noreturn void leave(int code)
{
    const uintptr_t exit[2] = {APPLICATION_EXIT, (uintptr_t)code};
    for (;;)
        call_host(SYS_EXIT_EXTENDED, exit);
}

size_t host_read(void *data, size_t bytes)
{
    static intptr_t input = -1;
    size_t left = bytes;
    if (input < 0)
        input = standard_file(FOR_READING);
    while (left > 0) {
        const uintptr_t read[3] = {(uintptr_t)input, (uintptr_t)data + (bytes - left), left};
        size_t missing = (size_t)call_host(SYS_READ, read); /* the number of bytes that were not read */
        if (missing >= left)
            break;
        left = missing;
    }
    return bytes - left;
}

static void write_to(intptr_t file, const void *data, size_t bytes)
{
    const uintptr_t write[3] = {(uintptr_t)file, (uintptr_t)data, bytes};
    if (call_host(SYS_WRITE, write) != 0)
        leave(2);
}

void host_write(const void *data, size_t bytes)
{
    static intptr_t output = -1;
    if (output < 0)
        output = standard_file(FOR_WRITING);
    write_to(output, data, bytes);
}

_Noreturn void host_fail(const char *text)
{
    size_t length = 0;
    while (text[length] != 0)
        length++;
    write_to(standard_file(FOR_APPENDING), text, length);
    leave(1);
}

void *host_memory(size_t bytes)
{
    static unsigned char *next = memory_start;
    unsigned char *memory = next;
    if (bytes + 1 > (size_t)(memory_end - next))
        host_fail("the memory of the emulated board is too small");
    next += bytes + 1;
    return memory;
}

static _Noreturn void reset(void)
{
    volatile uint32_t *const access_control = (volatile uint32_t *)0xe000ed88; /* CPACR */
    uint32_t *word;
    *access_control |= 0xfu << 20; /* coprocessors 10 and 11: the floating-point unit, and vectors */
    __asm__ volatile("dsb\n isb" : : : "memory");
    for (word = bss_start; word < bss_end; word++)
        *word = 0;
    leave(main());
}

static _Noreturn void fault(void)
{
    host_fail("the processor met an instruction or an address that it does not have");
}
