/* SPDX-License-Identifier: MIT */
/* Everything that Python sees of C. */
#ifndef NATIVE_H
#define NATIVE_H

#include "capture.h"
#include "loader.h"
#include "names.h"
#include "packet.h"

#endif
