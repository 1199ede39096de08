# The compiler and linker in the Python package ziglang: pip install ziglang

set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG)
if(NOT ZIG)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    set(FIND_ZIG "import ziglang, pathlib; print(pathlib.Path(ziglang.__file__).with_name('zig'))")
    execute_process(
        COMMAND "${Python3_EXECUTABLE}" -c "${FIND_ZIG}"
        OUTPUT_VARIABLE ZIG OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()

set(CMAKE_C_COMPILER "${ZIG}" cc -target thumb-freestanding-eabihf)
set(CMAKE_C_FLAGS_INIT "-fno-sanitize=all -fno-unwind-tables")
set(CMAKE_C_LINK_EXECUTABLE "${ZIG} ld.lld --gc-sections <LINK_FLAGS> <OBJECTS> -o <TARGET> <LINK_LIBRARIES>")

# A Cortex-M has its floating-point unit only if that is named.
set(CPU_mps2-an386 -mcpu=cortex_m4+vfp4d16sp)
set(CPU_mps2-an500 -mcpu=cortex_m7+fp_armv8d16)
set(CPU_mps3-an547 -mcpu=cortex_m55+fp_armv8d16)
