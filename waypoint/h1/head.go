package h1

import (
	"strings"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// parseRequest reads a whole head into req, whose Fields may have space already. The strings share one copy of it.
func parseRequest(head []byte, req *exchange.Request, f *framing) error {
	head = append([]byte(nil), head[:len(head)-2]...) // without the empty line
	line, rest, err := cutLine(head)
	if err != nil {
		return err
	}
	if err := parseRequestLine(text(line), req); err != nil {
		return err
	}
	if req.Fields, err = parseFields(rest, req.Fields, f); err != nil {
		return err
	}
	if err := checkHost(req, f); err != nil {
		return err
	}
	req.Fields = f.handOn(req.Fields)
	return requestLength(req, f)
}

// parseRequestLine reads method, target and version (RFC 9112 section 3).
func parseRequestLine(line string, req *exchange.Request) error {
	method, rest, _ := strings.Cut(line, " ")
	target, version, found := strings.Cut(rest, " ")
	if !found || !exchange.ValidToken(method) {
		return malformed("the first line is no request's")
	}
	var err error
	if req.Version, err = parseVersion(version); err != nil {
		return err
	}
	req.Method = method
	if method == "CONNECT" {
		return &Malformed{405, "CONNECT, which only proxies for clients serve"}
	}
	return parseTarget(target, req)
}

func parseVersion(s string) (exchange.Version, error) {
	switch s {
	case "HTTP/1.1":
		return exchange.HTTP11, nil
	case "HTTP/1.0":
		return exchange.HTTP10, nil
	}
	if len(s) == 8 && s[:5] == "HTTP/" && isDigit(s[5]) && s[6] == '.' && isDigit(s[7]) {
		return 0, &Malformed{505, "a version of HTTP that isn't served here"}
	}
	return 0, malformed("the first line is of no version of HTTP")
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parseTarget reads a request's target in origin-form, absolute-form or asterisk-form (RFC 9112 section 3.2).
func parseTarget(target string, req *exchange.Request) error {
	if exchange.ValidPath(target) {
		req.Path = target
		return nil
	}
	if target == "*" && req.Method == "OPTIONS" {
		req.Path = target
		return nil
	}
	scheme, rest, found := strings.Cut(target, "://")
	if !found || (!strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https")) {
		return malformed("the target is neither a path nor a URL")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	req.Authority = rest[:end]
	if req.Path = rest[end:]; req.Path == "" || req.Path[0] == '?' {
		req.Path = "/" + req.Path
	}
	if req.Authority == "" || !exchange.ValidAuthority(req.Authority) || !exchange.ValidPath(req.Path) {
		return malformed("the target is no URL")
	}
	return nil
}

// checkHost takes the authority of Host, unless the target has it (RFC 9112 section 3.2).
func checkHost(req *exchange.Request, f *framing) error {
	switch {
	case f.hosts > 1:
		return malformed("several Hosts")
	case f.hosts == 0 && req.Version == exchange.HTTP11:
		return malformed("no Host")
	case !exchange.ValidAuthority(f.host):
		return malformed("a Host that is none")
	}
	if req.Authority == "" {
		req.Authority = f.host
	}
	return nil
}

// requestLength tells how long the body is (RFC 9112 section 6.3), and whether the connection is to become something else.
func requestLength(req *exchange.Request, f *framing) error {
	switch {
	case f.chunked && f.length >= 0:
		return malformed("transfer-encoding and content-length together")
	case f.chunked && req.Version == exchange.HTTP10:
		return malformed("transfer-encoding in HTTP/1.0")
	case f.chunked:
		req.Length = exchange.UnknownLength
	default:
		req.Length = max(0, f.length)
	}
	if req.Length == 0 && req.Version == exchange.HTTP11 {
		req.Upgrade = f.upgradeTo()
	}
	return nil
}

// parseResponse reads a whole head into r. Of the body it says what the fields do: the request may say that there is none.
func parseResponse(head []byte, r *exchange.Response, f *framing) error {
	head = append([]byte(nil), head[:len(head)-2]...)
	line, rest, err := cutLine(head)
	if err != nil {
		return err
	}
	if err := parseStatusLine(text(line), r); err != nil {
		return err
	}
	if r.Fields, err = parseFields(rest, r.Fields, f); err != nil {
		return err
	}
	r.Fields = f.handOn(r.Fields)
	switch {
	case f.chunked && f.length >= 0:
		return malformed("transfer-encoding and content-length together")
	case f.chunked && r.Version == exchange.HTTP10:
		return malformed("transfer-encoding in HTTP/1.0")
	case f.hosts > 0:
		return malformed("a Host")
	}
	r.Length = f.length
	if r.Status == 101 {
		r.Upgrade = f.upgradeTo()
	}
	return nil
}

// parseStatusLine reads version, status and a reason that is of no use (RFC 9112 section 4).
func parseStatusLine(line string, r *exchange.Response) error {
	version, rest, _ := strings.Cut(line, " ")
	var err error
	if r.Version, err = parseVersion(version); err != nil {
		return err
	}
	status, reason, _ := strings.Cut(rest, " ")
	if len(status) != 3 || status[0] < '1' || status[0] > '9' || !isDigit(status[1]) || !isDigit(status[2]) || !exchange.ValidValue(reason) {
		return malformed("the first line is no answer's")
	}
	r.Status = int(status[0]-'0')*100 + int(status[1]-'0')*10 + int(status[2]-'0')
	return nil
}
