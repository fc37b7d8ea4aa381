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
  /* Heads of all tokens, turned: [key heads][tokens][query heads of it][size], and without that
   * axis for keys and values. */
  Stored *queries, *keys, *values;
} Attention;

static int64_t round_up(int64_t number, int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

/* Norm and rotary position of one head, times a factor. whole: in float32 too, or NULL. */
static inline void turn(const float* from, const float* weight, const float* cosines,
                        const float* sines, int size, float epsilon, float factor, Stored* to,
                        float* whole) {
  Vector squares = all(0.0f);
  for (int i = 0; i < size; i += LANES) squares += load(from + i) * load(from + i);
  const float inverse = factor / sqrtf(sum_of(squares) / size + epsilon);
  const int half = size / 2;
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

/* Every head of some tokens, read as they lie. */
static void turn_tokens(void* given, size_t index) {
  Attention* own = given;
  const int size = own->size, group = own->heads / own->key_heads;
  const float factor = 1.0f / sqrtf((float)size);
  const int64_t seen = own->num_past + own->longest;
  int64_t row = 0, start = 0;
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    while (t >= own->ends[row]) start = own->ends[row++];
    const int64_t position = own->num_past + t - start;
    const float *cosines = own->cosines + position * size / 2;
    const float *sines = own->sines + position * size / 2;
    for (int h = 0; h < own->heads; h++) {
      const int64_t to = ((h / group * own->num_tokens + t) * group + h % group) * size;
      turn(own->query + (t * own->heads + h) * size, own->query_weight, cosines, sines, size,
           own->epsilon, factor, own->queries + to, NULL);
    }
    for (int h = 0; h < own->key_heads; h++) {
      const int64_t at = (t * own->key_heads + h) * size, to = (h * own->num_tokens + t) * size;
      const int64_t present = ((row * own->key_heads + h) * seen + position) * size;
      turn(own->key + at, own->key_weight, cosines, sines, size, own->epsilon, 1.0f,
           own->keys + to, own->keeps ? own->present_key + present : NULL);
      for (int i = 0; i < size; i += LANES) {
        Vector value = load(own->value + at + i);
        shorten(own->values + to + i, value);
        if (own->keeps) store(own->present_value + present + i, value);
      }
    }
  }
}

/* Keys of a head as [blocks of 16 keys][channels / TOGETHER][16 keys][TOGETHER]. */
static void pack_key(const Stored* key, int64_t position, int size, Stored* packed) {
  Stored* to = packed + position / LANES * LANES * size + position % LANES * TOGETHER;
  for (int i = 0; i < size; i += TOGETHER, to += LANES * TOGETHER)
    memcpy(to, key + i, TOGETHER * sizeof *to);
}

/* Values of a head as [blocks of 32 channels][keys / TOGETHER][32 channels][TOGETHER]. */
static void pack_values(const Stored* one, const Stored* other, int64_t position, int size,
                        int64_t capacity, Stored* packed) {
  for (int i = 0; i < size; i += LANES)
    interleave(one + i, other + i,
               packed + i / COLUMNS * COLUMNS * capacity + position * COLUMNS + i % COLUMNS * TOGETHER);
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

typedef struct {
  Stored *keys, *values, *shares, *pair;
  float* scores;
  int64_t capacity;
} Room;

/* Leaves the last value of an odd past in `pair`. */
static void pack_past(const Attention* own, int head, int64_t row, const Room* room) {
  const int size = own->size;
  const int64_t from = (row * own->key_heads + head) * own->num_past * size;
  for (int64_t p = 0; p < own->num_past; p++) {
    Stored* place = room->pair + p % 2 * size;
    for (int i = 0; i < size; i += LANES) shorten(place + i, load(own->past_key + from + p * size + i));
    pack_key(place, p, size, room->keys);
  }
  for (int64_t p = 0; p < own->num_past; p += TOGETHER) {
    for (int64_t k = p; k < p + TOGETHER; k++)
      for (int i = 0; i < size; i += LANES)
        shorten(room->pair + (k - p) * size + i,
                k < own->num_past ? load(own->past_value + from + k * size + i) : all(0.0f));
    pack_values(room->pair, room->pair + size, p, size, room->capacity, room->values);
  }
}

/* The new keys and values of a row behind its past, and zeros up to a whole number of columns:
 * those are multiplied by shares of zero, so they must be numbers. */
static void pack_new(const Attention* own, int head, int64_t start, int64_t num_new,
                     const Room* room) {
  const int size = own->size;
  const Stored* keys = own->keys + (head * own->num_tokens + start) * size;
  const Stored* values = own->values + (head * own->num_tokens + start) * size;
  for (int64_t t = 0; t < num_new; t++) pack_key(keys + t * size, own->num_past + t, size, room->keys);
  const int64_t last = round_up(own->num_past + num_new, COLUMNS);
  Stored* zeros = room->pair + size;
  memset(zeros, 0, size * sizeof *zeros);
  for (int64_t position = own->num_past / TOGETHER * TOGETHER; position < last;
       position += TOGETHER) {
    /* Where the past is odd, its last value shares a pair with the first new one. */
    const Stored* side[2] = {position < own->num_past ? room->pair : zeros, zeros};
    for (int k = 0; k < TOGETHER; k++) {
      const int64_t t = position + k - own->num_past;
      if (t >= 0 && t < num_new) side[k] = values + t * size;
    }
    pack_values(side[0], side[1], position, size, room->capacity, room->values);
  }
}

/* One key head and the query heads that share it, for every row of the run. Keys of a tile's future
 * have shares of zero, so what is no number reaches a few tokens before it, of its own row. */
static void attend_head(void* given, size_t index) {
  Attention* own = given;
  const int size = own->size, group = own->heads / own->key_heads, head = (int)index;
  Room room = {.capacity = round_up(own->num_past + own->longest, COLUMNS)};
  const size_t cached = room.capacity * size * sizeof(Stored);
  const size_t scored = TALL * room.capacity * sizeof(float);
  Spare spare = take(2 * cached + 2 * scored + 2 * size * sizeof(Stored));
  if (!spare.memory) {
    own->failed = 1;
    return;
  }
  char* place = spare.memory;
  room.keys = (Stored*)place, place += cached;
  room.values = (Stored*)place, place += cached;
  room.scores = (float*)place, place += scored;
  room.shares = (Stored*)place, place += scored;
  room.pair = (Stored*)place;
  for (int64_t row = 0, start = 0; row < own->num_rows; start = own->ends[row++]) {
    const int64_t num_queries = (own->ends[row] - start) * group;
    if (own->num_past && (row == 0 || own->past_rows > 1)) pack_past(own, head, row, &room);
    pack_new(own, head, start, own->ends[row] - start, &room);
    const int64_t row_queries = (head * own->num_tokens + start) * group;
    const int64_t num_blocks = (num_queries + TALL - 1) / TALL;
    for (int64_t block = 0; block < num_blocks; block++) {
      const int64_t first = start_of(block, num_blocks, num_queries);
      const int64_t last = start_of(block + 1, num_blocks, num_queries);
      const int num_taken = (int)(last - first);
      const Stored* queries = own->queries + (row_queries + first) * size;
      const int64_t num_shown = own->num_past + (last - 1) / group + 1;
      const int64_t num_keys = round_up(num_shown, COLUMNS);
      Vector sums[TALL][2];
      for (int64_t k = 0; k < num_keys; k += COLUMNS) {
        mix_blocks(queries, size, room.keys + k * size, size, num_taken, sums);
        for (int r = 0; r < num_taken; r++) {
          store(room.scores + r * room.capacity + k, sums[r][0]);
          store(room.scores + r * room.capacity + k + LANES, sums[r][1]);
        }
      }
      float totals[TALL];
      for (int r = 0; r < num_taken; r++)
        totals[r] = soften(room.scores + r * room.capacity, own->num_past + (first + r) / group + 1,
                           num_keys, room.shares + r * room.capacity);
      for (int channel = 0; channel < size; channel += COLUMNS) {
        mix_block(room.shares, room.capacity, room.values + channel * room.capacity, num_shown,
                  num_taken, sums);
        for (int64_t q = first; q < last; q++) {
          const float share = 1.0f / totals[q - first];
          const int64_t head_place = (start + q / group) * own->heads + head * group + q % group;
          float* to = own->attended + head_place * size + channel;
          store(to, sums[q - first][0] * share);
          store(to + LANES, sums[q - first][1] * share);
        }
      }
    }
  }
  give(spare);
}
