/* Classify images with a compiled model, as a program without Python does. demo.py builds and runs it.

   cc -Iout examples/classify.c out/mnist.a -lm -pthread -o out/classify
   out/classify < IMAGES      # raw float32 pixels; prints the class of each image */

#include <stdio.h>
#include "mnist_sparse.h"

static unsigned char context[MNIST_SPARSE_CONTEXT_BYTES];
static float image[MNIST_SPARSE_INPUT0_BYTES / sizeof(float)];
static float scores[MNIST_SPARSE_OUTPUT0_BYTES / sizeof(float)];

int main(void)
{
    const sbnn_input inputs[] = {{image, sizeof image}};
    const sbnn_output outputs[] = {{scores, sizeof scores}};
    const size_t classes = sizeof scores / sizeof *scores;

    if (mnist_sparse_init(context, sizeof context, NULL) != SBNN_OK) {
        fprintf(stderr, "%s\n", mnist_sparse_last_error(context));
        return 1;
    }
    while (fread(image, sizeof image, 1, stdin) == 1) {
        size_t best = 0, index;
        if (mnist_sparse_run(context, inputs, outputs) != SBNN_OK) {
            fprintf(stderr, "%s\n", mnist_sparse_last_error(context));
            return 1;
        }
        for (index = 1; index < classes; index++)
            if (scores[index] > scores[best])
                best = index;
        printf("%zu\n", best);
    }
    mnist_sparse_close(context);
    return 0;
}
