/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Debian's libnftnl.a is compiled against glibc with _FORTIFY_SOURCE and calls glibc's checked
 * printf functions. musl has none; these keep the check (abort when the claimed buffer is smaller
 * than the claimed length), then do the plain call. `flag` only hardens %n, which musl and
 * libnftnl never see here.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int __snprintf_chk(char *s, size_t maxlen, int flag, size_t slen, const char *format, ...);
int __fprintf_chk(FILE *stream, int flag, const char *format, ...);

int __snprintf_chk(char *s, size_t maxlen, int flag, size_t slen, const char *format, ...)
{
	va_list args;
	int ret;

	(void)flag;
	if (slen < maxlen)
		abort();
	va_start(args, format);
	ret = vsnprintf(s, maxlen, format, args);
	va_end(args);
	return ret;
}

int __fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
	va_list args;
	int ret;

	(void)flag;
	va_start(args, format);
	ret = vfprintf(stream, format, args);
	va_end(args);
	return ret;
}
