/* Tiles of a matrix product: factors in bfloat16 where the processor multiplies that, sums in float32. */
#pragma once
#include <stdint.h>
#include <string.h>

#include "vectors.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

/* Rows and columns that are worked on at once. */
enum { ROWS = 8, COLUMNS = 2 * LANES };

#ifdef __AVX512BF16__
typedef uint16_t Stored; /* bfloat16 */
enum { TOGETHER = 2 };   /* factors that one instruction multiplies and adds to one sum */
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
static inline Vector multiply_add(const Stored* factors, const Stored* pair, Vector sum) {
  int both;
  memcpy(&both, pair, sizeof both);
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(factors),
                                  (__m512bh)_mm512_set1_epi32(both));
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
static inline Vector multiply_add(const Stored* factors, const Stored* one, Vector sum) {
  return sum + load(factors) * *one;
}
static inline void shorten(Stored* to, Vector values) { store(to, values); }
static inline void interleave(const Stored* one, const Stored* other, Stored* to) {
  (void)other;
  store(to, load(one));
}
#endif

/* sums[r] = shares[r] . values over the first num_keys keys, for 8 rows and 32 columns; values as
 * [num_keys / TOGETHER][32][TOGETHER]. */
static void mix_block(const Stored* shares, const Stored* values, int64_t num_keys, int64_t stride,
                      Vector sums[ROWS][2]) {
  for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = all(0.0f);
  for (int64_t k = 0; k < num_keys; k += TOGETHER) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const Stored* share = shares + r * stride + k;
      sums[r][0] = multiply_add(values + k * COLUMNS, share, sums[r][0]);
      sums[r][1] = multiply_add(values + k * COLUMNS + LANES * TOGETHER, share, sums[r][1]);
    }
  }
}
