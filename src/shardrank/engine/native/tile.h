/* Tiles of a matrix product: factors in bfloat16 where the processor multiplies that, sums in float32. */
#pragma once
#include <stdint.h>
#include <string.h>

#include "vectors.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* Columns that are worked on at once, and rows whose sums for them fit into registers. */
enum { COLUMNS = 2 * LANES };
#ifdef __AVX512F__
enum { TALL = 14 };
#else
enum { TALL = 3 };
#endif

/* For the number of rows, a constant then. */
#if defined __AVX512F__
#define FOR_ROWS(number, WORK)                                                                  \
  switch (number) {                                                                             \
    WORK(1) WORK(2) WORK(3) WORK(4) WORK(5) WORK(6) WORK(7) WORK(8) WORK(9) WORK(10) WORK(11)   \
    WORK(12) WORK(13) WORK(14)                                                                  \
  }
#else
#define FOR_ROWS(number, WORK) \
  switch (number) {            \
    WORK(1) WORK(2) WORK(3)    \
  }
#endif
/* Bytes of tokens that are read again and again, and so must stay in the second cache. */
enum { NEAR_BYTES = 768 << 10 };
/* What rows are longer by than their values: rows a power of two apart share few places of a cache. */
enum { APART_BY = LANES };
#define UNROLLED inline __attribute__((always_inline))
/* Of its own, so that all registers are: inlined, factors went through memory. */
#define APART __attribute__((noinline))

/* Where a part begins of what is cut evenly. */
static inline int64_t start_of(int64_t part, int64_t num_parts, int64_t number) {
  return number * part / num_parts;
}

/* Some processors multiply it, and slower than float32. */
#if defined __AVX512BF16__ && !defined WITHOUT_BFLOAT16
#define HAS_BFLOAT16
#endif

#ifdef HAS_BFLOAT16
typedef uint16_t Stored; /* bfloat16 */
enum { TOGETHER = 2 };   /* factors that one instruction multiplies and adds to one sum */
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef __m512i Factors; /* as many as are stored in a vector's place */
static inline Factors load_factors(const Stored* from) { return _mm512_loadu_si512(from); }
static inline Factors repeat(const Stored* pair) {
  int both;
  memcpy(&both, pair, sizeof both);
  return _mm512_set1_epi32(both);
}
static inline Vector multiply_add(Factors ones, Factors others, Vector sum) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)ones, (__m512bh)others);
}
static inline void shorten(Stored* to, Vector values) {
  _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)values));
}
/* [2][16] to [16][2]. */
static inline void interleave(const Stored* one, const Stored* other, Stored* to) {
  Unsigned low = __builtin_convertvector(*(const Halves*)one, Unsigned);
  Unsigned high = __builtin_convertvector(*(const Halves*)other, Unsigned);
  low |= high << 16;
  memcpy(to, &low, sizeof low);
}
#else
typedef float Stored;
enum { TOGETHER = 1 };
typedef Vector Factors;
static inline Factors load_factors(const Stored* from) { return load(from); }
static inline Factors repeat(const Stored* one) { return all(*one); }
static inline Vector multiply_add(Factors ones, Factors others, Vector sum) {
  return sum + ones * others;
}
static inline void shorten(Stored* to, Vector values) { store(to, values); }
static inline void interleave(const Stored* one, const Stored* other, Stored* to) {
  (void)other;
  store(to, load(one));
}
#endif

static inline void shorten_all(Stored* to, const float* from, int64_t number) {
  for (int64_t i = 0; i < number; i += LANES) shorten(to + i, load(from + i));
}

/* sums[r] = rows[r] . columns over num_inputs factors, for 32 columns; rows `stride` apart, columns
 * as two halves of 16, `apart` from each other, and TOGETHER factors of each every `step`. */
static UNROLLED void mix_rows(const Stored* rows, int64_t stride, const Stored* columns, int64_t step,
                              int64_t apart, int64_t num_inputs, const int num_rows,
                              Vector sums[][2]) {
  Vector kept[TALL][2];
#pragma GCC unroll 16
  for (int r = 0; r < num_rows; r++) kept[r][0] = kept[r][1] = all(0.0f);
  for (int64_t i = 0; i < num_inputs; i += TOGETHER, columns += step) {
    const Factors left = load_factors(columns), right = load_factors(columns + apart);
#pragma GCC unroll 16
    for (int r = 0; r < num_rows; r++) {
      const Factors row = repeat(rows + r * stride + i);
      kept[r][0] = multiply_add(left, row, kept[r][0]);
      kept[r][1] = multiply_add(right, row, kept[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < num_rows; r++) sums[r][0] = kept[r][0], sums[r][1] = kept[r][1];
}

static APART void mix_tile(const Stored* rows, int64_t stride, const Stored* columns, int64_t step,
                           int64_t apart, int64_t num_inputs, int num_rows, Vector sums[][2]) {
#define MIX(n)                                                               \
  case n:                                                                    \
    mix_rows(rows, stride, columns, step, apart, num_inputs, n, sums);       \
    break;
  FOR_ROWS(num_rows, MIX)
#undef MIX
}

/* The same for columns as [num_inputs / TOGETHER][32][TOGETHER]. */
static inline void mix_block(const Stored* rows, int64_t stride, const Stored* columns,
                             int64_t num_inputs, int num_rows, Vector sums[][2]) {
  mix_tile(rows, stride, columns, COLUMNS * TOGETHER, LANES * TOGETHER, num_inputs, num_rows, sums);
}

/* The same for two blocks of columns behind each other, each [num_inputs / TOGETHER][16][TOGETHER]. */
static inline void mix_blocks(const Stored* rows, int64_t stride, const Stored* columns,
                              int64_t num_inputs, int num_rows, Vector sums[][2]) {
  mix_tile(rows, stride, columns, LANES * TOGETHER, LANES * num_inputs, num_inputs, num_rows, sums);
}
