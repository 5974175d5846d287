/* Start and output of a program on a Cortex-M under QEMU: a vector table, the floating-point unit, semihosting. */
#include <stdint.h>

extern uint32_t stack_top, data_from, data_begin, data_end, bss_begin, bss_end;
int main(void);
void put(char c);
int finish(void);
void reset(void);
void start_clock(void);
uint32_t clock_ticks(void);

static int semihost(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void put(char c) { semihost(3, &c); } /* SYS_WRITEC */

int finish(void) {
  semihost(0x18, (const void *)0x20026); /* SYS_EXIT: the application has ended */
  return 0;
}

enum { MOST_TICKS = 0xffffff };
#define SYSTICK ((volatile uint32_t *)0xE000E010) /* control, reload, value: counts down at the processor's 25 MHz */

void start_clock(void) {
  SYSTICK[1] = MOST_TICKS;
  SYSTICK[2] = 0;
  SYSTICK[0] = 5;
}

uint32_t clock_ticks(void) { return MOST_TICKS - SYSTICK[2]; }

static void fail(void) {
  semihost(0x18, (const void *)0x20023); /* a run-time error */
  for (;;) {
  }
}

void reset(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the floating-point unit is there for everybody */
  __asm__ volatile("dsb\n\tisb");
  const uint32_t *from = &data_from;
  for (uint32_t *to = &data_begin; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
  main();
  fail();
}

__attribute__((section(".vectors"), used)) static const void *const VECTORS[16] = {
    &stack_top, (const void *)reset, (const void *)fail, (const void *)fail,
    (const void *)fail, (const void *)fail, (const void *)fail};
