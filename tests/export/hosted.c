/* Output where there is a C library with files. */
#include <stdint.h>
#include <stdio.h>

void put(char c);
int finish(void);
void start_clock(void);
uint32_t clock_ticks(void);
void put(char c) { putchar(c); }
int finish(void) { return 0; }
void start_clock(void) {}
uint32_t clock_ticks(void) { return 0; }
