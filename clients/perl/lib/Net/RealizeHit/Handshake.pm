package Net::RealizeHit::Handshake;

use v5.36;

use Digest::SHA                   qw(sha1_base64);
use MIME::Base64                  qw(encode_base64);
use Net::RealizeHit::Error        ();
use Net::RealizeHit::Random       ();
use Protocol::WebSocket::Request  ();
use Protocol::WebSocket::Response ();

our $VERSION = '0.1.0';

use constant {
    GUID     => '258EAFA5-E914-47DA-95CA-C5AB0DC85B11',    # RFC 6455
    MAX_HEAD => 16_384,
    MAX_BODY => 65_536,
};

# The parts of an address ws://host:port/path; undef if it is not one.
sub address_of ($url) {
    my ( $scheme, $host, $port, $target )
        = $url =~ m{\A(wss?)://(\[[[:xdigit:]:.]+\]|[^/:?\#\[\]@\s]+)(?::([0-9]{1,5}))?([/?][^\#\s]*)?\z}aix
        or return;
    my $secure = lc $scheme eq 'wss';
    my $standard = $secure ? 443 : 80;
    $port //= $standard;
    $target = q{/} . ( $target // q{} ) if ( $target // q{} ) !~ m{\A/};
    return {
        secure => $secure,
        host   => $host =~ s/\A\[|\]\z//gr,
        port   => $port,
        named  => $port == $standard ? $host : "$host:$port",
        target => $target,
    };
}

sub new ( $class, $address, $headers ) {
    my $key = encode_base64( Net::RealizeHit::Random::bytes(16), q{} );
    return bless { address => $address, headers => $headers, key => $key }, $class;
}

sub is_done ($self) { return $self->{done} }

sub request ($self) {
    my $request = Protocol::WebSocket::Request->new(
        version       => 'draft-ietf-hybi-17',
        host          => $self->{address}{named},
        secure        => $self->{address}{secure},
        resource_name => $self->{address}{target},
        headers       => $self->{headers},
    );
    $request->key( $self->{key} );

    # The library claims to be a web page; a server that limits those would refuse this client.
    return $request->to_string =~ s/^Origin:[^\r\n]*\r\n//mr;
}

# Takes the answer from the front of a buffer. Returns an error, or nothing; it may need more.
sub take ( $self, $buffer, $ended ) {
    my $end = index ${$buffer}, "\r\n\r\n";
    if ( $end < 0 ) {
        return 'the answer to the handshake is not HTTP' if length ${$buffer} >= 5 && ${$buffer} !~ m{\AHTTP/};
        return 'the answer to the handshake is too long' if length ${$buffer} > MAX_HEAD;
        return $ended ? 'the connection ended in the handshake' : q{};
    }
    my $head = substr ${$buffer}, 0, $end + 4;
    my ( $status, $reason ) = $head =~ m{\AHTTP/1\.[01]\x20([1-5][0-9]{2})\x20?([^\r\n]*)\r\n}a
        or return 'the answer to the handshake is not HTTP';
    return $self->_refused( $head, $status, $reason, substr( ${$buffer}, $end + 4 ), $ended ) if $status != 101;
    substr ${$buffer}, 0, $end + 4, q{};
    my $response = Protocol::WebSocket::Response->new;
    $response->parse("$head") or return 'the handshake failed: ' . $response->error;
    my $accept = $response->field('Sec-WebSocket-Accept') // q{};
    return 'the handshake has a wrong Sec-WebSocket-Accept' if $accept ne sha1_base64( $self->{key} . GUID ) . q{=};
    $self->{done} = 1;
    return q{};
}

sub _refused ( $self, $head, $status, $reason, $body, $ended ) {
    my ($length) = $head =~ /^Content-Length:[ ]*([0-9]{1,9})/mia;
    my $whole = length $body >= ( $length // MAX_BODY ) || length $body >= MAX_BODY;
    return q{} if !$whole && !$ended;
    my ($retry_after) = $head =~ /^Retry-After:[ ]*([^\r\n]*)/mi;
    return Net::RealizeHit::Error->problem( $status, $reason, substr( $body, 0, MAX_BODY ), $retry_after );
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Handshake - the opening handshake of a WebSocket

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Connection>. L<Protocol::WebSocket> writes the request and reads the answer.

=head1 METHODS

=head2 address_of

A function: the parts of an address such as C<ws://127.0.0.1:8080/ws>; C<undef> if it is not one.

=head2 new

Takes the parts of the address and a reference to a list of header names and values.

=head2 request

The request as bytes.

=head2 take

Takes the answer from a buffer. Returns an error, or the empty string.

=head2 is_done

Whether the WebSocket is open.

=cut
