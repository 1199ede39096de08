/* What this CPU can do, and the operating system allows. Nothing here is an instruction that a CPU may lack. */
#ifndef SBNN_CPU_H
#define SBNN_CPU_H

/* Bits that a build needs in a word that tells features. */
struct sbnn_need {
    uint32_t leaf;    /* x86: the leaf of cpuid; ARM: the entry of the auxiliary vector */
    uint32_t subleaf; /* x86: the subleaf of cpuid */
    uint32_t word;    /* x86: the register */
    uint64_t bits;
};

#if defined(__x86_64__)

enum { SBNN_EAX, SBNN_EBX, SBNN_ECX, SBNN_EDX, SBNN_XCR0 };

static void sbnn_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t words[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(words[SBNN_EAX]), "=b"(words[SBNN_EBX]), "=c"(words[SBNN_ECX]), "=d"(words[SBNN_EDX])
                     : "a"(leaf), "c"(subleaf));
}

static uint64_t sbnn_cpu_word(const struct sbnn_need *need)
{
    uint32_t words[4], high;
    if (need->word == SBNN_XCR0) { /* the registers that the system saves when it switches threads */
        sbnn_cpuid(1, 0, words);
        if (!(words[SBNN_ECX] >> 27 & 1))
            return 0;
        __asm__ volatile("xgetbv" : "=a"(words[0]), "=d"(high) : "c"(0));
        return words[0];
    }
    sbnn_cpuid(need->leaf & 0x80000000u, 0, words); /* the last leaf */
    if (words[SBNN_EAX] < need->leaf)
        return 0;
    if (need->subleaf > 0) {
        sbnn_cpuid(need->leaf, 0, words); /* the last subleaf */
        if (words[SBNN_EAX] < need->subleaf)
            return 0;
    }
    sbnn_cpuid(need->leaf, need->subleaf, words);
    return words[need->word];
}

#elif defined(__linux__) && (defined(__aarch64__) || defined(__arm__))

#include <sys/auxv.h>

static uint64_t sbnn_cpu_word(const struct sbnn_need *need)
{
    return getauxval(need->leaf);
}

#else /* it cannot be asked: the library is for a CPU that has them all */

static uint64_t sbnn_cpu_word(const struct sbnn_need *need)
{
    return need->bits;
}

#endif

static int sbnn_cpu_has(const struct sbnn_need *needs, size_t count)
{
    size_t index;
    for (index = 0; index < count; index++)
        if ((sbnn_cpu_word(&needs[index]) & needs[index].bits) != needs[index].bits)
            return 0;
    return 1;
}

#endif
