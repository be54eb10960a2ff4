// Package exchange is one HTTP request and its answer on their way through a waypoint, whichever version of HTTP is spoken on either side.
//
//	client ══ codec ─▶ Handler(request, Client) … another Handler … ─▶ codec ══ server
//	               ◀─ Inform, Respond, Data, End ─           the last one is a connection to the server
//	               ─ Data, End ─▶ the Server that the Handler returned
//
// A codec of the client's side calls a Handler for each request. What answers it, another codec, a filter, or a test, is a Handler too, so
// they stack without knowing of each other. The rules for both sides:
//
//   - Everything of an exchange happens on one event loop. Nothing waits.
//   - Heads come first: Inform any number of times, Respond once. Then Data any number of times, then End or Abort, once.
//   - The request may end before its answer or not at all: the end of the answer is the end of the exchange, and so is Abort, whoever
//     calls it. After that nothing more is said to either side, and Abort isn't answered by another Abort.
//   - Bytes given to Data are valid during the call only. Whoever takes them says Consumed when they have left (or aren't wanted); a
//     side must not have more than Window bytes given and not consumed. So a slow reader slows its writer, and memory is bounded. End says
//     that nothing more will be asked of the window: after it no Consumed comes.
//   - A call may be answered by a call before it returns, but a Handler's Client isn't called before the Handler has returned. Who has
//     the answer at once gives it in a task of the loop.
package exchange

import "errors"

// Window is how many bytes of a body may be on their way between two sides, given to Data and not yet Consumed.
const Window = 256 << 10

// Handler answers a request: it tells client, and returns what hears the rest of the request. Both are the exchange's alone.
type Handler func(req *Request, client Client) Server

// Server is the side that answers, as the side that asked sees it.
type Server interface {
	Data(p []byte)        // of the request's body
	End(trailers []Field) // the request is complete; trailers may be nil
	Abort(err error)      // the client gave up, or broke off
	Consumed(n int)       // of the response's body
}

// Client is the side that asked, as the side that answers sees it.
type Client interface {
	Inform(r *Response)   // an interim answer, 100–199 but 101
	Respond(r *Response)  // the answer's head
	Data(p []byte)        // of the answer's body
	End(trailers []Field) // the answer is complete
	Abort(err error)      // there is no (complete) answer
	Consumed(n int)       // of the request's body
}

// Version is a version of HTTP.
type Version uint8

// The versions that a message can have come by.
const (
	HTTP10 Version = iota + 1
	HTTP11
	HTTP2
)

// UnknownLength is the Length of a body whose end shows only when it comes.
const UnknownLength = -1

// Request is a request's head. It is the handler's, who may change it; its strings are never changed in place.
type Request struct {
	Version   Version
	Method    string
	Scheme    string // "http" or "https"; by HTTP/1 as the connection is
	Authority string // :authority, or Host; "" if an HTTP/1.0 client sent none
	Path      string // with the query, as sent; starts with a slash, or is "*"
	// Upgrade is what the connection is to become when the answer's status is 101: "websocket", or as the Upgrade header said; "" for
	// an ordinary request. From then on Data is what it carries, both ways; no Data or End comes before. HTTP/2 has it as an extended CONNECT
	// (RFC 8441); every other CONNECT codecs refuse.
	Upgrade string
	Fields  []Field
	Length  int64 // of the body in bytes; UnknownLength when End tells
}

// Response is an answer's head.
type Response struct {
	Version Version
	Status  int
	Fields  []Field
	// Length is of the body in bytes; UnknownLength when End tells. For HEAD and 304 it is what content-length said, and no body comes.
	Length int64
	// Upgrade is what the connection becomes, with status 101.
	Upgrade string
}

// Field is a header or trailer. Names are in lower case. Those that only say something of a connection or of framing aren't among
// the fields: connection and all that it names, keep-alive, proxy-connection, transfer-encoding, upgrade, te but for "trailers",
// content-length (Length has it), host (Authority has it).
type Field struct {
	Name, Value string
}

// ErrNoAnswer says that a server ended or broke the connection before it said anything of a request. Whether it processed that isn't known.
var ErrNoAnswer = errors.New("the server closed the connection instead of answering")

// NotProcessed says that a server surely hasn't processed a request, which may be sent again whatever it asks for.
type NotProcessed struct{ Err error }

func (e *NotProcessed) Error() string {
	return "the server did not process the request: " + e.Err.Error()
}

func (e *NotProcessed) Unwrap() error { return e.Err }

// Unsayable says that a request can't be put to a server as that speaks, which is neither's fault, and why. Nothing of it was sent.
type Unsayable struct {
	Status int // of the answer to a request like this
	Err    error
}

func (e *Unsayable) Error() string { return "the request can't be put to the server: " + e.Err.Error() }

func (e *Unsayable) Unwrap() error { return e.Err }

// Get returns the first value of a field, and whether there is one.
func Get(fields []Field, name string) (string, bool) {
	for i := range fields {
		if fields[i].Name == name {
			return fields[i].Value, true
		}
	}
	return "", false
}
