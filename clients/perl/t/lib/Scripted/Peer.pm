package Scripted::Peer;

# The other end of a connection of the client.
use v5.36;

use Digest::SHA                qw(sha1_base64);
use Protocol::WebSocket::Frame ();
use Time::HiRes                ();

our $VERSION = '0.1.0';

my $GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

sub number ($self) { return $self->{number} }

sub note ( $self, $text ) {
    print { $self->{log} } $text =~ s/\n/ /gr, "\n" or die "no pipe: $!\n";
    return;
}

sub raw ( $self, $bytes ) {
    while ( length $bytes ) {
        my $count = syswrite $self->{socket}, $bytes;
        die "the client went\n" if !$count;
        substr $bytes, 0, $count, q{};
    }
    return;
}

sub pause ( $self, $seconds ) { Time::HiRes::sleep($seconds); return }

sub _more ($self) {
    my $count = sysread $self->{socket}, $self->{in}, 65_536, length $self->{in};
    die "the client went\n" if !$count;
    return;
}

# The head of a request, and its body if it has a length.
sub request ($self) {
    $self->_more while $self->{in} !~ /\r\n\r\n/;
    my ($head) = $self->{in} =~ s/\A(.*?\r\n\r\n)//s ? $1 : q{};
    my ($length) = $head =~ /^Content-Length: (\d+)/mi;
    $self->_more while length $self->{in} < ( $length // 0 );
    return ( $head, substr $self->{in}, 0, $length // 0, q{} );
}

sub answer ( $self, $status, $body, %headers ) {
    my $lines = join q{}, map {"$_: $headers{$_}\r\n"} sort keys %headers;
    return $self->raw( "HTTP/1.1 $status Said\r\nContent-Length: ${\length $body}\r\n$lines\r\n$body" );
}

# Takes the handshake; returns its head.
sub upgrade ($self) {
    my ($head) = $self->request;
    my ($key) = $head =~ /^Sec-WebSocket-Key: (\S+)/mi;
    my $accept = sha1_base64( $key . $GUID ) . q{=};
    $self->raw( "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            . "Sec-WebSocket-Accept: $accept\r\n\r\n" );
    $self->{frame} = Protocol::WebSocket::Frame->new;
    return $head;
}

sub text ( $self, @texts ) {
    return $self->raw( join q{}, map { Protocol::WebSocket::Frame->new($_)->to_bytes } @texts );
}

sub say_close ( $self, $code, $reason = q{} ) {
    return $self->raw( Protocol::WebSocket::Frame->new( type => 'close', buffer => pack( 'n', $code ) . $reason )->to_bytes );
}

# The next frame of the client: its opcode and payload.
sub next_frame ($self) {
    while (1) {
        $self->{frame}->append( $self->{in} );
        my $bytes = $self->{frame}->next_bytes;
        return ( $self->{frame}->opcode, $bytes ) if defined $bytes;
        $self->_more;
    }
    return;
}

# The id and text of the next action of the client.
sub action ($self) {
    my ( $opcode, $text ) = $self->next_frame;
    die "no action but $opcode\n" if $opcode != 1;
    my ($id) = $text =~ /"id":"(\d+)"/;
    return ( $id, $text );
}

# Takes a sub and confirms it.
sub confirm ( $self, $label ) {
    my ( $id, $text ) = $self->action;
    $self->text(qq({"id":"$id","ret":"$label"}));
    return $text;
}

# Answers pings until the client goes.
sub stay ($self) {
    while ( my ( $opcode, $bytes ) = $self->next_frame ) {
        next if $opcode != 9;
        $self->raw( Protocol::WebSocket::Frame->new( type => 'pong', buffer => $bytes )->to_bytes );
    }
    return;
}

1;
