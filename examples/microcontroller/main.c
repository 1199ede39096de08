/* Runs a model once on the sample of sample.h, and prints its output and what memory it takes. */

#include <stddef.h>
#include <stdint.h>

#include "clock.h"
#include "model.h"
#include "sample.h"
#include "semihosting.h"
#include "stack.h"

#ifndef CONTEXT_BYTES
#define CONTEXT_BYTES 3072 /* the program says if it is too small */
#endif

/* All memory that the model uses beside the stack. */
static _Alignas(64) unsigned char context[CONTEXT_BYTES];
static _Alignas(64) unsigned char output[SAMPLE_OUTPUT_BYTES];

/* Set by the linker script: the addresses of these symbols are numbers of bytes. */
extern const char flash_bytes[], ram_bytes[];

static void print_line(const char *label, unsigned long number)
{
    print(label);
    print_number(number);
    print("\n");
}

/* Print bytes as hexadecimal digits: exact for floats as well. */
static void print_hexadecimal(const unsigned char *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        const char text[2] = {digits[bytes[i] >> 4], digits[bytes[i] & 15]};
        host_write(text, 2);
    }
    print("\n");
}

int main(void)
{
    const sbnn_input inputs[] = {{sample_input, sizeof sample_input}};
    const sbnn_output outputs[] = {{output, sizeof output}};
    uint32_t ticks;
    int error;

    print(model_version());
    print("\n");
    print_line("context bytes: ", model_context_bytes(NULL));
    error = model_init(context, sizeof context, NULL);
    clock_start();
    if (error == SBNN_OK)
        error = model_run(context, inputs, outputs);
    ticks = clock_ticks();
    if (error != SBNN_OK) {
        print(error == SBNN_ERROR_MEMORY ? "CONTEXT_BYTES is too small" : model_last_error(context));
        print("\n");
        return error;
    }
    print("output: ");
    print_hexadecimal(output, sizeof output);
    print_line("clock ticks: ", ticks); /* of the processor; an emulator's clock tells little */
    print_line("flash bytes: ", (uintptr_t)flash_bytes);
    print_line("static RAM bytes: ", (uintptr_t)ram_bytes);
    print_line("stack bytes: ", stack_used());
    model_close(context);
    return 0;
}
