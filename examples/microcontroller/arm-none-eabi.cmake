# The GNU toolchain for Arm (Debian: gcc-arm-none-eabi).

set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

set(CMAKE_C_COMPILER arm-none-eabi-gcc)

set(CPU_mps2-an386 -mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16)
set(CPU_mps2-an500 -mthumb -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16)
set(CPU_mps3-an547 -mthumb -mcpu=cortex-m55 -mfloat-abi=hard)
foreach(BOARD_NAME mps2-an386 mps2-an500 mps3-an547)
    set(LINK_${BOARD_NAME} ${CPU_${BOARD_NAME}} -nostartfiles -nostdlib -Wl,--gc-sections)
endforeach()
