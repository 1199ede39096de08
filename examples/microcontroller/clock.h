#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

/* SysTick counts down from 2^24 - 1 with the clock of the processor. Call clock_start, then clock_ticks at most 2^24
   ticks later. */

static inline void clock_start(void)
{
    volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010; /* control, reload, current value */
    systick[0] = 0;
    systick[1] = 0xffffff;
    systick[2] = 0;
    systick[0] = 5; /* on, from the processor's clock, without interrupt */
}

static inline uint32_t clock_ticks(void)
{
    const volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010;
    return (0xffffff - systick[2]) & 0xffffff;
}

#endif
