/* Preloaded library: reads of one range of one file fail with EIO, as of a bad sector.
 *
 * STRUCK_PATH   end of the path of the file
 * STRUCK_FROM   first byte of the range
 * STRUCK_TO     byte behind the range
 *
 * A read that begins in front of the range ends short there, as the kernel's does. The first failure is told on
 * standard error, so that the test knows that the range was read at all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *suffix;
static off64_t from, to;
static int told;

__attribute__((constructor)) static void prepare(void)
{
    const char *first = getenv("STRUCK_FROM"), *behind = getenv("STRUCK_TO");
    suffix = getenv("STRUCK_PATH");
    from = first ? atoll(first) : 0;
    to = behind ? atoll(behind) : 0;
}

static int is_struck_file(int fd)
{
    char link[64] = "/proc/self/fd/", path[4096], digits[16];
    size_t n = 0, at = strlen(link);
    unsigned number = (unsigned)fd;
    ssize_t length;
    if (!suffix || !*suffix || fd < 0)
        return 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    while (n)
        link[at++] = digits[--n];
    link[at] = 0;
    length = readlink(link, path, sizeof path);
    return length >= (ssize_t)strlen(suffix)
        && !memcmp(path + length - strlen(suffix), suffix, strlen(suffix));
}

/* Returns how much of a read of `length` bytes at `offset` is to be done; -1: it fails. */
static ssize_t readable(int fd, size_t length, off64_t offset)
{
    static const char text[] = "struck: a read fails with EIO\n";
    if (!length || offset >= to || offset + (off64_t)length <= from || !is_struck_file(fd))
        return (ssize_t)length;
    if (offset < from)
        return (ssize_t)(from - offset);
    if (!told) {
        told = 1;
        if (write(2, text, sizeof text - 1) < 0)
            told = 1;
    }
    errno = EIO;
    return -1;
}

#define REAL(type, name) \
    static type real; \
    if (!real) \
    real = (type)dlsym(RTLD_NEXT, name)

typedef ssize_t (*read_fn)(int, void *, size_t);
typedef ssize_t (*pread_fn)(int, void *, size_t, off64_t);
typedef ssize_t (*readv_fn)(int, const struct iovec *, int);
typedef ssize_t (*preadv_fn)(int, const struct iovec *, int, off64_t);

ssize_t read(int fd, void *buffer, size_t length)
{
    REAL(read_fn, "read");
    int before = errno;
    off64_t at = suffix && *suffix ? lseek64(fd, 0, SEEK_CUR) : -1;
    errno = before;
    ssize_t part = at < 0 ? (ssize_t)length : readable(fd, length, at);
    return part < 0 ? -1 : real(fd, buffer, (size_t)part);
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
    REAL(pread_fn, "pread64");
    ssize_t part = readable(fd, length, offset);
    return part < 0 ? -1 : real(fd, buffer, (size_t)part, offset);
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    return pread64(fd, buffer, length, offset);
}

/* The buffers of a vectored read are filled one by one. */
static ssize_t read_parts(int fd, const struct iovec *parts, int count, off64_t offset)
{
    ssize_t sum = 0;
    for (int n = 0; n < count; n++) {
        ssize_t one = offset < 0 ? read(fd, parts[n].iov_base, parts[n].iov_len)
                                 : pread64(fd, parts[n].iov_base, parts[n].iov_len, offset + sum);
        if (one < 0)
            return sum ? sum : -1;
        sum += one;
        if ((size_t)one < parts[n].iov_len)
            break;
    }
    return sum;
}

ssize_t readv(int fd, const struct iovec *parts, int count)
{
    REAL(readv_fn, "readv");
    return is_struck_file(fd) ? read_parts(fd, parts, count, -1) : real(fd, parts, count);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    REAL(preadv_fn, "preadv64");
    return is_struck_file(fd) ? read_parts(fd, parts, count, offset) : real(fd, parts, count, offset);
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
{
    return preadv64(fd, parts, count, offset);
}
