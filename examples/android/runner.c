#include "runner.h"

#include <stdlib.h>

#include "model.h"

struct runner {
    void *context;
};

runner *runner_new(size_t threads)
{
    const sbnn_options options = {.threads = threads};
    const size_t bytes = model_context_bytes(&options);
    runner *made = malloc(sizeof *made);
    if (made == NULL)
        return NULL;
    made->context = malloc(bytes);
    if (made->context == NULL || model_init(made->context, bytes, &options) != SBNN_OK) {
        free(made->context);
        free(made);
        return NULL;
    }
    return made;
}

size_t runner_input_bytes(void)
{
    return model_inputs(NULL)[0].bytes;
}

size_t runner_output_bytes(void)
{
    return model_outputs(NULL)[0].bytes;
}

const char *runner_run(runner *runner, const void *input, void *output)
{
    const sbnn_input inputs[] = {{input, runner_input_bytes()}};
    const sbnn_output outputs[] = {{output, runner_output_bytes()}};
    if (model_run(runner->context, inputs, outputs) == SBNN_OK)
        return NULL;
    return model_last_error(runner->context);
}

void runner_free(runner *runner)
{
    if (runner == NULL)
        return;
    model_close(runner->context);
    free(runner->context);
    free(runner);
}
