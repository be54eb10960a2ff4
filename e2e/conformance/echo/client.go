package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxBody is the most of an answer that is read, in bytes.
const maxBody = 1 << 20

// request is what a client asks.
type request struct {
	url     *url.URL
	method  string
	headers http.Header
	count   int
}

// reply is what came of it.
type reply struct {
	status  int // of HTTP; a call of gRPC that went well has 200
	headers map[string][]string
	body    string
}

func runClient(ctx context.Context, args []string, out io.Writer) error {
	r, err := parseRequest(args)
	if err != nil {
		return err
	}
	ask, err := r.asker()
	if err != nil {
		return err
	}
	for i := range r.count {
		one, cancel := context.WithTimeout(ctx, patience)
		got, err := ask(one)
		cancel()
		if err != nil {
			return fmt.Errorf("request %d to %s: %w", i, r.url, err)
		}
		if err := got.write(out, i, r); err != nil {
			return err
		}
	}
	return nil
}

func parseRequest(args []string) (r request, err error) {
	if len(args) == 0 {
		return r, errors.New("client: want a URL, and then flags")
	}
	if r.url, err = url.Parse(args[0]); err != nil {
		return r, err
	}
	r.headers = http.Header{}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&r.method, "method", http.MethodGet, "of HTTP")
	flags.IntVar(&r.count, "count", 1, "how often to ask, one after another")
	flags.Func("H", "header to send, as name:value", func(text string) error {
		name, value, found := strings.Cut(text, ":")
		if !found {
			return errors.New("want name:value")
		}
		r.headers.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		return nil
	})
	err = flags.Parse(args[1:])
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("client: unknown %q", flags.Args())
	}
	return r, err
}

// write says of a reply what the suite looks for. A blank line ends it.
func (r reply) write(w io.Writer, number int, asked request) error {
	fmt.Fprintf(w, "[%d] Url=%s\n[%d] StatusCode=%d\n", number, asked.url, number, r.status)
	for _, name := range slices.Sorted(maps.Keys(r.headers)) {
		for _, value := range r.headers[name] {
			fmt.Fprintf(w, "[%d] ResponseHeader=%s:%s\n", number, name, value)
		}
	}
	for line := range strings.SplitSeq(strings.TrimSpace(r.body), "\n") {
		fmt.Fprintf(w, "[%d body] %s\n", number, line)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// asker returns what asks once. All that it asks goes over one connection, if the server keeps it: a mesh has to see requests in it.
func (r request) asker() (func(context.Context) (reply, error), error) {
	switch r.url.Scheme {
	case "http", "https":
		return r.overHTTP(), nil
	case "grpc":
		return r.overGRPC()
	case "tcp":
		return r.overTCP, nil
	}
	return nil, fmt.Errorf("URL %s: want http, https, grpc or tcp", r.url)
}

func (r request) overHTTP() func(context.Context) (reply, error) {
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // of servers that have signed for themselves
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) (reply, error) {
		req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), nil)
		if err != nil {
			return reply{}, err
		}
		req.Header = r.headers.Clone()
		if host := req.Header.Get("Host"); host != "" {
			req.Host = host
			req.Header.Del("Host")
		}
		resp, err := client.Do(req)
		if err != nil {
			return reply{}, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return reply{resp.StatusCode, resp.Header, string(body)}, err
	}
}

func (r request) overGRPC() (func(context.Context) (reply, error), error) {
	conn, err := grpc.NewClient("passthrough:///"+r.url.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return func(ctx context.Context) (reply, error) {
		for name, values := range r.headers {
			for _, value := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, name, value)
			}
		}
		var body wrapperspb.StringValue
		var headers metadata.MD
		err := conn.Invoke(ctx, "/"+echoService+"/"+echoMethod, wrapperspb.String(""), &body, grpc.Header(&headers))
		return reply{http.StatusOK, headers, body.Value}, err
	}, err
}

func (r request) overTCP(ctx context.Context) (reply, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", r.url.Host)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return reply{}, err
	}
	body, err := io.ReadAll(io.LimitReader(conn, maxBody))
	return reply{status: http.StatusOK, body: string(body)}, err
}
