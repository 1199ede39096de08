# Cross compile for Linux with the compiler in the Python package ziglang (pip install ziglang):
#
#   cmake ... -DCMAKE_TOOLCHAIN_FILE=zig.cmake -DZIG_TARGET=aarch64-linux-musl
#
# ZIG_TARGET is aarch64-linux-gnu, aarch64-linux-musl, arm-linux-musleabihf, riscv64-linux-musl and so on. A program for
# musl is static and runs on every Linux; zig builds musl when it is used first, which takes a minute or two.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG ZIG_TARGET ZIG_PROGRAMS)
string(REGEX REPLACE "-.*" "" CMAKE_SYSTEM_PROCESSOR "${ZIG_TARGET}")

if(NOT ZIG)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    set(FIND_ZIG "import ziglang, pathlib; print(pathlib.Path(ziglang.__file__).with_name('zig'))")
    execute_process(
        COMMAND "${Python3_EXECUTABLE}" -c "${FIND_ZIG}"
        OUTPUT_VARIABLE ZIG OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()

# CMake wants each tool to be one program.
if(NOT ZIG_PROGRAMS)
    set(ZIG_PROGRAMS "${CMAKE_BINARY_DIR}")
endif()
set(ZIG_ARGUMENTS_cc "cc -target ${ZIG_TARGET} -fno-sanitize=all")
set(ZIG_ARGUMENTS_c++ "c++ -target ${ZIG_TARGET} -fno-sanitize=all")
set(ZIG_ARGUMENTS_ar ar)
foreach(TOOL cc c++ ar)
    file(WRITE "${ZIG_PROGRAMS}/zig-${TOOL}" "#!/bin/sh\nexec '${ZIG}' ${ZIG_ARGUMENTS_${TOOL}} \"$@\"\n")
    file(CHMOD "${ZIG_PROGRAMS}/zig-${TOOL}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endforeach()

set(CMAKE_C_COMPILER "${ZIG_PROGRAMS}/zig-cc")
set(CMAKE_ASM_COMPILER "${ZIG_PROGRAMS}/zig-cc")
set(CMAKE_CXX_COMPILER "${ZIG_PROGRAMS}/zig-c++")
set(CMAKE_AR "${ZIG_PROGRAMS}/zig-ar" CACHE FILEPATH "the archiver")
set(CMAKE_RANLIB true CACHE FILEPATH "zig ar writes the index itself")
