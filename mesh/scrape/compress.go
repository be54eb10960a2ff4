package scrape

import (
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// maxEncodings bounds how much of an Accept-Encoding header is looked at.
const maxEncodings = 20

// encodings are ours, the cheapest for us first; ties are decided by this order. "deflate" is the zlib format (RFC 9110
// section 8.4.1.2).
var encodings = [...]struct {
	name string
	open func(io.Writer) io.WriteCloser
}{
	{"gzip", func(w io.Writer) io.WriteCloser {
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // only a wrong level is an error
		return z
	}},
	{"zstd", func(w io.Writer) io.WriteCloser {
		// One thread and a small window: a scrape is not worth a burst of memory.
		z, _ := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
		return z
	}},
	{"br", func(w io.Writer) io.WriteCloser {
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 1, LGWin: 17})
	}},
	{"deflate", func(w io.Writer) io.WriteCloser {
		z, _ := zlib.NewWriterLevel(w, zlib.BestSpeed)
		return z
	}},
}

// plainWriter is the encoding "identity".
type plainWriter struct{ io.Writer }

// Close implements io.Closer.
func (plainWriter) Close() error { return nil }

// compressed returns a writer of the body in the encoding that the client likes best; close it at the body's end.
func compressed(w http.ResponseWriter, header http.Header) io.WriteCloser {
	w.Header().Add("Vary", "Accept-Encoding")
	likes := acceptedEncodings(strings.Join(header.Values("Accept-Encoding"), ","))
	best, quality := -1, 0.0
	for i, encoding := range encodings {
		q, named := likes[encoding.name]
		if !named {
			q = likes["*"]
		}
		if q > quality {
			best, quality = i, q
		}
	}
	if best < 0 || likes["identity"] > quality {
		return plainWriter{w}
	}
	w.Header().Set("Content-Encoding", encodings[best].name)
	return encodings[best].open(w)
}

// acceptedEncodings reads an Accept-Encoding header (RFC 9110 section 12.5.3): encodings in lower case with their quality.
// What can't be read counts as not accepted.
func acceptedEncodings(header string) map[string]float64 {
	likes := map[string]float64{}
	for item := range strings.SplitSeq(header, ",") {
		if len(likes) >= maxEncodings {
			break
		}
		name, parameter, weighted := strings.Cut(item, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "" {
			continue
		}
		quality := 1.0
		if weighted {
			text, isWeight := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameter)), "q=")
			q, err := strconv.ParseFloat(text, 64)
			if !isWeight || err != nil || !(q >= 0 && q <= 1) {
				q = 0
			}
			quality = q
		}
		likes[name] = quality
	}
	return likes
}
