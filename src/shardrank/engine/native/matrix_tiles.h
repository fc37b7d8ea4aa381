/* Intel's AMX: integer products of 32 tokens with 32 columns at once, where processor and kernel
 * allow it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18). */
#pragma once
#include <stdint.h>

#include "vectors.h"

enum { TILED_ROWS = 32, TILED_INPUTS = 64 };

/* GCC has one name for it, clang another. */
#if (defined __AMX_INT8__ || defined __AMXINT8__) && defined __linux__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQUEST_STATE = 0x1023, TILE_DATA = 18 }; /* Linux: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */

/* Whether Linux lets this process use tiles; costs a call of the system. */
static int may_tile(void) { return syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0; }

/* Every tile has 16 rows of 64 bytes. */
static void begin_tiles(void) {
  struct {
    uint8_t palette, start_row, unused[14];
    uint16_t num_bytes[16];
    uint8_t num_rows[16];
  } shape = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) shape.num_bytes[tile] = 64, shape.num_rows[tile] = 16;
  /* GCC 12 takes the instruction to read 8 bytes only. */
  __asm__ volatile("" : : "r"(&shape) : "memory");
  _tile_loadconfig(&shape);
}

static void end_tiles(void) { _tile_release(); }

/* sums[r] = tokens[r] . weight for 32 tokens and 32 columns; weight as [num_inputs / 4][32][4]. */
static void sum_tiles(const uint8_t* tokens, const int8_t* weight, int64_t num_inputs,
                      Integers sums[][2]) {
  const int64_t column_bytes = 128;
  const uint8_t* others = tokens + 16 * num_inputs;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < num_inputs; i += TILED_INPUTS, weight += TILED_INPUTS / 4 * column_bytes) {
    _tile_loadd(4, tokens + i, num_inputs);
    _tile_loadd(6, weight, column_bytes);
    _tile_loadd(7, weight + 64, column_bytes);
    _tile_loadd(5, others + i, num_inputs);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, &sums[0][0], column_bytes);
  _tile_stored(1, &sums[0][1], column_bytes);
  _tile_stored(2, &sums[16][0], column_bytes);
  _tile_stored(3, &sums[16][1], column_bytes);
}
#else
static int may_tile(void) { return 0; }
static void begin_tiles(void) {}
static void end_tiles(void) {}
static void sum_tiles(const uint8_t* tokens, const int8_t* weight, int64_t num_inputs,
                      Integers sums[][2]) {
  (void)tokens, (void)weight, (void)num_inputs, (void)sums;
}
#endif
