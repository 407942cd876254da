#include "small.h"

s64 memstart_addr = -1;
