/* The start of a program on any Cortex-M with a floating-point unit: vectors, memory, main. */

#include <stddef.h>
#include <stdint.h>

#include "semihosting.h"
#include "stack.h"

/* Set by the linker script. */
extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_bottom[], stack_top[];

int main(void);
_Noreturn void reset(void);
_Noreturn static void fault(void);

/* The first entry is the initial stack pointer; the processor then jumps to reset. */
__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
};

#define PAINT 0x5ac3a53cu /* what no variable is likely to hold */

/* main is called by assembly alone: the compiler must not use the floating-point unit before it is enabled. */
_Noreturn void reset(void)
{
    volatile uint32_t *const access_control = (volatile uint32_t *)0xe000ed88; /* CPACR */
    uint32_t *word;
    const uint32_t *source = data_load;
    *access_control |= 0xfu << 20; /* coprocessors 10 and 11: floats, and vectors where there are some */
    __asm__ volatile("dsb\n isb" : : : "memory");
    for (word = data_start; word < data_end; word++)
        *word = *source++;
    for (word = bss_start; word < bss_end; word++)
        *word = 0;
    for (word = stack_bottom; word < (uint32_t *)__builtin_frame_address(0) - 32; word++)
        *(volatile uint32_t *)word = PAINT;
    host_exit(main());
}

_Noreturn static void fault(void)
{
    print("fault\n");
    host_exit(99);
}

size_t stack_used(void)
{
    const volatile uint32_t *word = stack_bottom;
    while (word < stack_top && *word == PAINT)
        word++;
    return (size_t)((const char *)stack_top - (const char *)(uintptr_t)word);
}
