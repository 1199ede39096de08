// The first frame of a file of float32 pixels, in C++17.
//
//     first_frame FILE

#include <cstdio>
#include <fstream>
#include <vector>

#include HEADER
#include "sbnn.hpp"

#define MODEL_OF(NAME) SBNN_MODEL(NAME)

int main(int argc, char **argv)
try {
    const sbnn::functions functions = MODEL_OF(NAME);
    std::vector<float> frame(functions.inputs(nullptr)->bytes / sizeof(float));
    std::vector<float> scores(functions.outputs(nullptr)->bytes / sizeof(float));
    std::ifstream file(argc > 1 ? argv[1] : "", std::ios::binary);
    if (!file.read(reinterpret_cast<char *>(frame.data()), static_cast<std::streamsize>(frame.size() * sizeof(float)))) {
        std::fprintf(stderr, "usage: first_frame FILE, of at least %zu float32 pixels\n", frame.size());
        return 2;
    }
    sbnn::model model(functions);
    model.run({frame}, {scores});
    for (std::size_t index = 0; index < scores.size(); index++)
        std::printf("class %zu: %g\n", index, static_cast<double>(scores[index]));
} catch (const sbnn::error &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
