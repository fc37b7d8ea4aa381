/* Vectors of 16 float32 values, whatever registers the processor has (GCC and clang). */
#pragma once
#include <stdint.h>

enum { LANES = 16 };
typedef float Vector __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4)));
typedef int Integers __attribute__((vector_size(64)));
typedef unsigned Unsigned __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

static inline Vector load(const float* from) { return *(const Loose*)from; }
static inline void store(float* to, Vector values) { *(Loose*)to = values; }
static inline Vector all(float value) { return value - (Vector){0}; }
static inline Vector larger(Vector a, Vector b) {
  Integers is = a > b;
  return (Vector)((is & (Integers)a) | (~is & (Integers)b));
}
/* Lanes whose numbers differ in the bit k change places. */
#define ORDER(k)                                                                              \
  0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k, 8 ^ k, 9 ^ k, 10 ^ k, 11 ^ k, 12 ^ k, \
      13 ^ k, 14 ^ k, 15 ^ k
#ifdef __clang__
#define SWAPPED(v, k) __builtin_shufflevector(v, v, ORDER(k))
#else
#define SWAPPED(v, k) __builtin_shuffle(v, (Integers){ORDER(k)})
#endif
static inline float largest_of(Vector v) {
  v = larger(v, SWAPPED(v, 8));
  v = larger(v, SWAPPED(v, 4));
  v = larger(v, SWAPPED(v, 2));
  return larger(v, SWAPPED(v, 1))[0];
}
static inline float sum_of(Vector v) {
  v += SWAPPED(v, 8);
  v += SWAPPED(v, 4);
  v += SWAPPED(v, 2);
  return (v + SWAPPED(v, 1))[0];
}

/* e^x to 2 units in the last place; 0 below -87, and as for 88 above (Cephes' polynomial).
 * What is no number stays so: of two, `larger` takes the second then. */
static inline Vector exponential(Vector x) {
  Integers is_tiny = x < -87.0f;
  x = -larger(all(-88.0f), -x);
  x = larger(all(-87.5f), x);
  Vector shifted = x * 1.44269504f + 12582912.0f; /* rounds to a whole number */
  Vector whole = shifted - 12582912.0f;
  Vector rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Vector sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  Integers power = ((Integers)shifted - 0x4b400000 + 127) << 23;
  return (Vector)(~is_tiny & (Integers)(sum * (Vector)power));
}

/* x times the logistic function of x. */
static inline Vector silu(Vector x) { return x / (exponential(-x) + 1.0f); }
