package h2c

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// FuzzRequestHead is given a head as lines of name=value. What we take of it we say to the next server so that it is taken for the same.
func FuzzRequestHead(f *testing.F) {
	for _, head := range []string{
		":method=GET\n:scheme=http\n:path=/a?b\n:authority=a:80\nx=y\ncookie=a=1\ncookie=b=2\nhost=a:80\ncontent-length=3",
		":method=OPTIONS\n:scheme=https\n:path=*\nhost=b\nte=trailers", ":method=CONNECT\n:authority=a:1", ":method=GET\n:scheme=ftp\n:path=a\n:authority=u@a",
	} {
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head string) {
		var fields []hpack.HeaderField
		for line := range strings.SplitSeq(head, "\n") {
			if i := strings.Index(strings.TrimPrefix(line, ":"), "="); i > 0 {
				i += strings.Index(line, line[len(line)-len(strings.TrimPrefix(line, ":")):])
				fields = append(fields, hpack.HeaderField{Name: line[:i], Value: line[i+1:]})
			}
		}
		first, err := receive(fields)
		if err != nil {
			return
		}
		saying := conn{core: h2.New(limits(h2.Client, 0))}
		said, err := saying.requestFields(first)
		if err != nil {
			t.Fatalf("we take %+v and can't say it: %v", first, err)
		}
		second, err := receive(said)
		if err != nil {
			t.Fatalf("what we say of %+v isn't taken: %v", first, err)
		}
		if first.Length == 0 { // the frame that a Client sends says so by its end, which isn't looked at here
			second.Length = 0
		}
		if fmt.Sprintf("%+v", *first) != fmt.Sprintf("%+v", *second) {
			t.Fatalf("we take\n%+v and say\n%+v", *first, *second)
		}
	})
}

// receive has a request's head come in a frame, and parses it.
func receive(fields []hpack.HeaderField) (*exchange.Request, error) {
	var in, block bytes.Buffer
	in.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&in, nil), hpack.NewEncoder(&block)
	for _, field := range fields {
		_ = encoder.WriteField(field)
	}
	if block.Len() > 16<<10 {
		return nil, errManyField
	}
	_ = framer.WriteSettings()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	core := h2.New(limits(h2.Server, 10))
	for p := in.Bytes(); len(p) > 0; {
		n, ev, err := core.Receive(p)
		if err != nil {
			return nil, err
		}
		p = p[n:]
		if ev.Kind == h2.EventHeaders {
			req := new(exchange.Request)
			return req, parseRequest(ev.Fields, req)
		}
	}
	return nil, errPath // the core has reset the stream
}
