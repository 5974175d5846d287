/* Counts what is allocated, when loaded before the C library (LD_PRELOAD): the most bytes that were held at once
 * between `allocations_begin` and `allocations_end`, over all threads. glibc only. */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static atomic_int counting;
static _Atomic int64_t held, most;

static void add(int64_t bytes) {
  const int64_t now = atomic_fetch_add(&held, bytes) + bytes;
  int64_t before = atomic_load(&most);
  while (now > before && !atomic_compare_exchange_weak(&most, &before, now)) {
  }
}

static void *counted(void *block) {
  if (block && atomic_load(&counting)) add((int64_t)malloc_usable_size(block));
  return block;
}

void allocations_begin(void) {
  atomic_store(&held, 0);
  atomic_store(&most, 0);
  atomic_store(&counting, 1);
}

int64_t allocations_end(void) {
  atomic_store(&counting, 0);
  return atomic_load(&most);
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }

int posix_memalign(void **block, size_t alignment, size_t size) {
  *block = counted(__libc_memalign(alignment, size));
  return *block ? 0 : ENOMEM;
}

void free(void *block) {
  if (block && atomic_load(&counting)) add(-(int64_t)malloc_usable_size(block));
  __libc_free(block);
}

void *realloc(void *block, size_t size) {
  if (block && atomic_load(&counting)) add(-(int64_t)malloc_usable_size(block));
  return counted(__libc_realloc(block, size));
}
