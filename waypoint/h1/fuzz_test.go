package h1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// The fuzz tests compare this package with net/http. What we take, net/http takes too and understands alike. What net/http takes and we
// don't is for one of these reasons only.
var stricter = []string{
	"a line doesn't end in CRLF",                    // net/http takes LF
	"a field that is folded over several lines",     // it unfolds
	"a field's value has control characters",        // it leaves some to its server
	"a field's name is none",                        // white space in one of an answer
	"several content-lengths",                       // it takes equal ones
	"transfer-encoding and content-length together", // it takes the chunks
	"transfer-encoding in HTTP/1.0",                 // it takes no notice
	"several Hosts",                                 // its server looks
	"no Host",                                       // the same
	"a Host that is none",                           // the same, and takes anything from who speaks HTTP/1.0
	"a Host",                                        // in an answer
	"CONNECT, which only proxies for clients serve",
	"the target is neither a path nor a URL", // fragments, other schemes
	"the target is no URL",                   // users, fragments
	"a version of HTTP that isn't served here",
	"the first line is no answer's", // status 000, control characters
	"a chunk without a size",        // white space after it
	"a chunk of an impossible size", // 16 digits
	"too many fields",
	"too many chunk extensions",
	"the line before a chunk is too long",
	"the trailers are too long",
	"a trailer that only a head may have",
	"a content-length that is no number of bytes", // 19 digits
	"a transfer-encoding other than chunked",      // in an answer of HTTP/1.0
}

// understanding is what a message is taken for.
type understanding struct {
	first  string // method, target and host, or status
	fields string
	body   string
	tail   string // trailers
	left   string // bytes after it
}

var errCut = errors.New("the message isn't complete")

// about are the names that both sides may leave out or add, as they only say something of the connection, or net/http makes something of them.
var about = []string{"connection", "content-length", "transfer-encoding", "upgrade", "te", "keep-alive", "proxy-connection", "trailer", "host", "cache-control"}

func describeFields(fields []exchange.Field) string {
	var lines []string
	for _, f := range fields {
		if !slices.Contains(about, f.Name) {
			lines = append(lines, fmt.Sprintf("%s=%q", f.Name, f.Value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func describeHeader(header http.Header) string {
	var fields []exchange.Field
	for name, values := range header {
		for _, value := range values {
			fields = append(fields, exchange.Field{Name: strings.ToLower(name), Value: value})
		}
	}
	return describeFields(fields)
}

// readBody reads a body in pieces of a size.
func readBody(b *body, p []byte, piece int) (content string, rest []byte, err error) {
	have := 0
	for !b.done {
		have = min(have+piece, len(p))
		n, part, err := b.next(p[:have], 1000)
		content += string(part)
		p, have = p[n:], have-n
		switch {
		case err != nil:
			return content, p, err
		case n == 0 && have == len(p):
			if b.kind == untilClose {
				return content, nil, nil
			}
			return content, p, errCut
		}
	}
	return content, p, nil
}

func ourRequest(p []byte, piece int) (u understanding, options string, err error) {
	n := headEnd(p, 0)
	if n == 0 {
		return u, "", errCut
	}
	var req exchange.Request
	var f framing
	if err := parseRequest(p[:n], &req, &f); err != nil {
		return u, "", err
	}
	b := newBody(req.Length, f.chunked)
	content, left, err := readBody(&b, p[n:], piece)
	return understanding{
		fmt.Sprint(req.Version, " ", req.Method, " ", req.Path, " ", req.Authority), describeFields(req.Fields), content, describeFields(b.trailers), string(left),
	}, strings.Join(f.options, ","), err
}

func theirRequest(p []byte) (u understanding, err error) {
	input := bytes.NewReader(p)
	reader := bufio.NewReader(input)
	req, err := http.ReadRequest(reader)
	if err != nil {
		return u, err
	}
	for name, values := range req.Header { // as net/http's server looks
		for _, value := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
				return u, errors.New("a field that is none")
			}
		}
	}
	if !httpguts.ValidHostHeader(req.Host) {
		return u, errors.New("a host that is none")
	}
	body, err := io.ReadAll(req.Body)
	version := exchange.HTTP11
	if req.ProtoMinor == 0 {
		version = exchange.HTTP10
	}
	target := req.RequestURI
	if _, rest, found := strings.Cut(target, "://"); found && target[0] != '/' {
		if target = rest[min(len(rest), len(req.Host)):]; target == "" || target[0] != '/' {
			target = "/" + target
		}
	}
	left, _ := io.ReadAll(reader)
	return understanding{
		fmt.Sprint(version, " ", req.Method, " ", target, " ", req.Host), describeHeader(req.Header), string(body), describeHeader(req.Trailer), string(left),
	}, err
}

// compare fails a test when what we take isn't what net/http takes.
func compare(t *testing.T, ours, theirs understanding, ourErr, theirErr error) {
	t.Helper()
	switch {
	case ourErr == nil && theirErr != nil:
		t.Fatalf("we take %+v, net/http says: %v", ours, theirErr)
	case ourErr == nil && ours != theirs:
		t.Fatalf("we take\n%+v, net/http\n%+v", ours, theirs)
	case ourErr != nil && theirErr == nil && !errors.Is(ourErr, errCut) && !slices.Contains(stricter, ourErr.Error()):
		t.Fatalf("net/http takes %+v, we say: %v", theirs, ourErr)
	}
}

var requests = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore",
	"POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nX: y\r\nx: z\r\n\r\nabcGET /",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: S\r\n\r\n3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nS: t\r\n\r\nnext",
	"GET http://b/c HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nX: y\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
	"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET /%2e%2e//x HTTP/1.1\r\nHost: [::1]:8\r\nX: \xc3\xa9\t\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
}

func FuzzRequest(f *testing.F) {
	for _, request := range requests {
		f.Add([]byte(request), 1)
		f.Add([]byte(request), 4096)
	}
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		piece = 1 + max(0, piece)%5000
		ours, options, ourErr := ourRequest(p, piece)
		if ourErr == nil && len(p)-len(ours.left) > 0 {
			again, _, err := ourRequest(p, 1<<20)
			if err != nil || again != ours {
				t.Fatalf("in pieces of %d bytes we take %+v, as a whole %+v, %v", piece, ours, again, err)
			}
		}
		if ourErr == nil {
			sayAgain(t, p)
		}
		theirs, theirErr := theirRequest(p)
		if options != "" && ourErr == nil && theirErr == nil { // fields that connection names aren't among ours
			ours.fields, theirs.fields = "", ""
		}
		compare(t, ours, theirs, ourErr, theirErr)
	})
}

// sayAgain says to the next server what was taken, and sees that it is taken for the same.
func sayAgain(t *testing.T, p []byte) {
	t.Helper()
	var first, second exchange.Request
	var f, g framing
	if err := parseRequest(p[:headEnd(p, 0)], &first, &f); err != nil {
		t.Fatal(err)
	}
	b := newBuffer()
	defer b.free()
	head, err := b.requestHead(&first)
	if err != nil || checkRequest(&first) != nil {
		t.Fatalf("we take %+v and can't say it: %v, %v", first, err, checkRequest(&first))
	}
	if err := parseRequest(head, &second, &g); err != nil {
		t.Fatalf("we take %+v and say %q: %v", first, head, err)
	}
	first.Version = exchange.HTTP11
	if second.Length = first.Length; !inChunks(&first) != !g.chunked {
		t.Fatalf("we take %+v and say %q", first, head)
	}
	if f.upgrading = false; fmt.Sprintf("%+v", first) != fmt.Sprintf("%+v", second) {
		t.Fatalf("we take\n%+v and say\n%+v", first, second)
	}
}

func FuzzResponse(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabcHTTP/1.1 200", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nS: t\r\n\r\nnext", "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add([]byte(answer), 1)
	}
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		ours, options, ourErr := ourResponse(p, 1+max(0, piece)%5000)
		theirs, theirErr := theirResponse(p)
		if options != "" && ourErr == nil && theirErr == nil {
			ours.fields, theirs.fields = "", ""
		}
		compare(t, ours, theirs, ourErr, theirErr)
	})
}

func ourResponse(p []byte, piece int) (u understanding, options string, err error) {
	n := headEnd(p, 0)
	if n == 0 {
		return u, "", errCut
	}
	var r exchange.Response
	var f framing
	if err := parseResponse(p[:n], &r, &f); err != nil {
		return u, "", err
	}
	b := newBody(r.Length, f.chunked)
	if r.Status < 200 || r.Status == 204 || r.Status == 304 {
		b = body{done: true}
	}
	content, left, err := readBody(&b, p[n:], piece)
	return understanding{fmt.Sprint(r.Status), describeFields(r.Fields), content, describeFields(b.trailers), string(left)}, strings.Join(f.options, ","), err
}

func theirResponse(p []byte) (u understanding, err error) {
	reader := bufio.NewReader(bytes.NewReader(p))
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		return u, err
	}
	body, err := io.ReadAll(res.Body)
	left, _ := io.ReadAll(reader)
	return understanding{fmt.Sprint(res.StatusCode), describeHeader(res.Header), string(body), describeHeader(res.Trailer), string(left)}, err
}

func FuzzChunked(f *testing.F) {
	for _, p := range []string{"3\r\nabc\r\n0\r\n\r\n", "a;x=y\r\n0123456789\r\n00\r\nX: y\r\n\r\nmore", "3\nabc\n0\n\n", "5 \r\nabcde\r\n0\r\n\r\n", "ffffffffffffffff\r\n"} {
		f.Add([]byte(p), 3)
	}
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		b := body{kind: chunked}
		content, left, err := readBody(&b, p, 1+max(0, piece)%5000)
		if err != nil {
			return
		}
		theirs, theirErr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(p[:len(p)-len(left)])))
		if theirErr != nil || string(theirs) != content {
			t.Fatalf("we take %q, net/http %q, %v", content, theirs, theirErr)
		}
	})
}
