/* PackedAttention: scales, norms and positions of heads, and the attention of packed rows. */
#include <math.h>
#include <string.h>

#include "rows.h"
#include "spare.h"
#include "tile.h"

typedef struct {
  const float *query, *key, *value, *query_weight, *key_weight, *cosines, *sines;
  const float *past_key, *past_value;
  const int64_t* ends;
  float *attended, *present_key, *present_value;
  int64_t num_rows, num_past, past_rows, num_tokens, longest;
  int heads, key_heads, size, keeps;
  float epsilon;
  int failed;
} Attention;

static int64_t round_up(int64_t number, int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

/* Norm and rotary position of one head, times a factor. whole: in float32 too, or NULL. */
static inline void turn(const Attention* own, const float* from, const float* weight,
                        int64_t position, float factor, Stored* to, float* whole) {
  const int size = own->size, half = size / 2;
  const float *cosines = own->cosines + position * half, *sines = own->sines + position * half;
  Vector squares = all(0.0f);
  for (int i = 0; i < size; i += LANES) squares += load(from + i) * load(from + i);
  const float inverse = factor / sqrtf(sum_of(squares) / size + own->epsilon);
  for (int i = 0; i < half; i += LANES) {
    Vector left = load(from + i) * inverse * load(weight + i);
    Vector right = load(from + half + i) * inverse * load(weight + half + i);
    Vector cosine = load(cosines + i), sine = load(sines + i);
    Vector one = left * cosine - right * sine, other = right * cosine + left * sine;
    shorten(to + i, one);
    shorten(to + half + i, other);
    if (whole) {
      store(whole + i, one);
      store(whole + half + i, other);
    }
  }
}

/* Heads lie far apart, where the processor does not look ahead by itself. */
static inline void ask_for(const float* head, int size) {
  for (int i = 0; i < size; i += LANES) __builtin_prefetch(head + i);
}

typedef struct {
  /* Of a head, [16][size]: keys and values of 16 positions as they come, and the last ones of a past
   * that ends between two sixteens. */
  Stored *new_keys, *new_values, *last_keys, *last_values;
  Stored *keys, *values, *queries, *shares;
  float* scores;
  int64_t capacity, stride; /* keys at most, and between the scores of two queries */
} Room;

/* [16 keys][size] to [size / TOGETHER][16 keys][TOGETHER]: a square of four bytes each is turned. */
static void pack_keys(const Stored* keys, int size, Stored* packed) {
#ifdef __AVX512F__
  const Integers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int i = 0; i < size; i += LANES * TOGETHER) {
    __m512i rows[LANES];
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) rows[r] = _mm512_loadu_si512(keys + r * size + i);
#pragma GCC unroll 4
    for (int apart = 1; apart < LANES; apart *= 2) {
      /* Lanes of the second row are numbered from 16. */
      const Integers is_second = (lane & apart) * (LANES / apart);
      const __m512i even = (__m512i)((lane & ~apart) | is_second);
      const __m512i odd = (__m512i)((lane | apart) | is_second);
#pragma GCC unroll 16
      for (int r = 0; r < LANES; r++) {
        if (r & apart) continue;
        const __m512i one = rows[r], other = rows[r + apart];
        rows[r] = _mm512_permutex2var_epi32(one, even, other);
        rows[r + apart] = _mm512_permutex2var_epi32(one, odd, other);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) _mm512_storeu_si512(packed + (i + r * TOGETHER) * LANES, rows[r]);
  }
#else
  for (int r = 0; r < LANES; r++)
    for (int i = 0; i < size; i += TOGETHER)
      memcpy(packed + i * LANES + r * TOGETHER, keys + r * size + i, TOGETHER * sizeof *packed);
#endif
}

/* The sixteen that holds a position: keys as [blocks of 16 keys][channels / TOGETHER][16 keys][TOGETHER],
 * values as [blocks of 32 channels][keys / TOGETHER][32 channels][TOGETHER]. */
static void pack(const Room* room, int64_t position, int size) {
  const int64_t first = position / LANES * LANES;
  pack_keys(room->new_keys, size, room->keys + first * size);
  for (int p = 0; p < LANES; p += TOGETHER)
    for (int i = 0; i < size; i += LANES) {
      const Stored* value = room->new_values + p * size + i;
      interleave(value, value + (TOGETHER - 1) * size,
                 room->values + i / COLUMNS * COLUMNS * room->capacity + (first + p) * COLUMNS +
                     i % COLUMNS * TOGETHER);
    }
}

static void pack_past(const Attention* own, int head, int64_t row, const Room* room) {
  const int size = own->size;
  const int64_t from = (row * own->key_heads + head) * own->num_past * size;
  for (int64_t p = 0; p < own->num_past; p++) {
    const int64_t place = p % LANES * size;
    shorten_all(room->new_keys + place, own->past_key + from + p * size, size);
    shorten_all(room->new_values + place, own->past_value + from + p * size, size);
    if (p % LANES == LANES - 1) pack(room, p, size);
  }
  memcpy(room->last_keys, room->new_keys, LANES * size * sizeof(Stored));
  memcpy(room->last_values, room->new_values, LANES * size * sizeof(Stored));
}

/* The new keys and values of a row behind its past, and zeros up to a whole number of columns:
 * those are multiplied by shares of zero, so they must be numbers. */
static void pack_new(const Attention* own, int head, int64_t row, int64_t start, const Room* room) {
  const int size = own->size;
  const int64_t num_new = own->ends[row] - start, seen = own->num_past + own->longest;
  memcpy(room->new_keys, room->last_keys, LANES * size * sizeof(Stored));
  memcpy(room->new_values, room->last_values, LANES * size * sizeof(Stored));
  const int64_t last = round_up(own->num_past + num_new, COLUMNS);
  for (int64_t position = own->num_past; position < last; position++) {
    Stored* key = room->new_keys + position % LANES * size;
    Stored* value = room->new_values + position % LANES * size;
    if (position < own->num_past + num_new) {
      const int64_t from = ((start + position - own->num_past) * own->key_heads + head) * size;
      const int64_t present = ((row * own->key_heads + head) * seen + position) * size;
      ask_for(own->key + from + 2 * own->key_heads * size, size);
      ask_for(own->value + from + 2 * own->key_heads * size, size);
      turn(own, own->key + from, own->key_weight, position, 1.0f, key,
           own->keeps ? own->present_key + present : NULL);
      shorten_all(value, own->value + from, size);
      if (own->keeps) memcpy(own->present_value + present, own->value + from, size * sizeof(float));
    } else {
      memset(key, 0, size * sizeof *key);
      memset(value, 0, size * sizeof *value);
    }
    if (position % LANES == LANES - 1) pack(room, position, size);
  }
}

/* Scores to shares that sum to 1 times the returned value; those from `seen` on become 0. */
static APART float soften(float* scores, int64_t seen, int64_t num_keys, Stored* shares) {
  for (int64_t k = seen; k < num_keys; k++) scores[k] = -INFINITY;
  Vector most = all(-INFINITY);
  for (int64_t k = 0; k < num_keys; k += LANES) most = larger(most, load(scores + k));
  const float largest = largest_of(most);
  Vector total = all(0.0f);
  for (int64_t k = 0; k < num_keys; k += LANES) {
    Vector share = exponential(load(scores + k) - largest);
    total += share;
    shorten(shares + k, share);
  }
  return sum_of(total);
}

/* Some queries of a row, which begins at token `start`: of each token those that share a key head. */
static void attend(const Attention* own, int head, int64_t start, int64_t first, int num_taken,
                   const Room* room) {
  const int size = own->size, group = own->heads / own->key_heads;
  const float factor = 1.0f / sqrtf((float)size);
  int64_t places[TALL]; /* of each query among all heads */
  for (int r = 0; r < num_taken; r++) {
    const int64_t new = (first + r) / group;
    places[r] = ((start + new) * own->heads + head * group + (first + r) % group) * size;
    ask_for(own->query + places[r] + TALL / group * own->heads * size, size);
    turn(own, own->query + places[r], own->query_weight, own->num_past + new, factor,
         room->queries + r * size, NULL);
  }
  const int64_t num_shown = own->num_past + (first + num_taken - 1) / group + 1;
  const int64_t num_keys = round_up(num_shown, COLUMNS);
  Vector sums[TALL][2];
  for (int64_t k = 0; k < num_keys; k += COLUMNS) {
    mix_blocks(room->queries, size, room->keys + k * size, size, num_taken, sums);
    for (int r = 0; r < num_taken; r++) {
      store(room->scores + r * room->stride + k, sums[r][0]);
      store(room->scores + r * room->stride + k + LANES, sums[r][1]);
    }
  }
  float totals[TALL];
  for (int r = 0; r < num_taken; r++)
    totals[r] = soften(room->scores + r * room->stride, own->num_past + (first + r) / group + 1,
                       num_keys, room->shares + r * room->stride);
  for (int channel = 0; channel < size; channel += COLUMNS) {
    mix_block(room->shares, room->stride, room->values + channel * room->capacity, num_shown,
              num_taken, sums);
    for (int r = 0; r < num_taken; r++) {
      const float share = 1.0f / totals[r];
      float* to = own->attended + places[r] + channel;
      store(to, sums[r][0] * share);
      store(to + LANES, sums[r][1] * share);
    }
  }
}

/* One key head and the query heads that share it, for every row of the run. Keys of a tile's future
 * have shares of zero, so what is no number reaches a few tokens before it, of its own row. */
static void attend_head(void* given, size_t index) {
  Attention* own = given;
  const int size = own->size, group = own->heads / own->key_heads, head = (int)index;
  Room room = {.capacity = round_up(own->num_past + own->longest, COLUMNS)};
  room.stride = room.capacity + APART_BY;
  const size_t packed = room.capacity * size, staged = LANES * size, scored = TALL * room.stride;
  const size_t stored = 2 * packed + 4 * staged + TALL * size + scored;
  Spare spare = take(stored * sizeof(Stored) + scored * sizeof(float));
  if (!spare.memory) {
    own->failed = 1;
    return;
  }
  room.scores = spare.memory;
  room.shares = (Stored*)(room.scores + scored);
  room.keys = room.shares + scored;
  room.values = room.keys + packed;
  room.queries = room.values + packed;
  room.new_keys = room.queries + TALL * size;
  room.new_values = room.new_keys + staged;
  room.last_keys = room.new_values + staged;
  room.last_values = room.last_keys + staged;
  for (int64_t row = 0, start = 0; row < own->num_rows; start = own->ends[row++]) {
    const int64_t num_queries = (own->ends[row] - start) * group;
    if (row == 0 || own->past_rows > 1) pack_past(own, head, row, &room);
    pack_new(own, head, row, start, &room);
    const int64_t num_blocks = (num_queries + TALL - 1) / TALL;
    for (int64_t block = 0; block < num_blocks; block++) {
      const int64_t first = start_of(block, num_blocks, num_queries);
      attend(own, head, start, first, (int)(start_of(block + 1, num_blocks, num_queries) - first), &room);
    }
  }
  give(spare);
}
