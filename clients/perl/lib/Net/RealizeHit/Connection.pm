package Net::RealizeHit::Connection;

use v5.36;

use Encode                      ();
use Errno                       qw(EAGAIN EALREADY EINPROGRESS EINTR EWOULDBLOCK);
use IO::Socket::IP              ();
use List::Util                  qw(min);
use Net::RealizeHit::Error      ();
use Net::RealizeHit::Handshake  ();
use Net::RealizeHit::Schedule   ();
use Protocol::WebSocket::Frame  ();
use Socket                      qw(IPPROTO_TCP SOCK_STREAM TCP_NODELAY);

our $VERSION = '0.1.0';

use constant {
    READ_SIZE     => 65_536,
    READ_AT_ONCE  => 262_144,      # bytes, before the messages in them are looked at
    MAX_WAITING   => 1_048_576,    # bytes that are read and not looked at yet
    MAX_FRAGMENTS => 65_536,
    CLOSE_TIMEOUT => 2,            # seconds for the server's part of a goodbye
    MAX_DELAY     => 300,          # seconds that a server can keep a client away
    CODE_DRAIN    => 4001,
    WHOLE_TEXT    => 0x81,         # first byte of a frame that is a whole text message
    OP_CLOSE      => 8,
    OP_PING       => 9,
    OP_PONG       => 10,
};

my %CODE_OF_STATUS = ( 4501 => 'not-authenticated', 4502 => 'forbidden', 4503 => 'too-many-connections' );

sub now () { return Net::RealizeHit::Schedule::now() }

# Begins to connect. It fails later, by `lost`.
sub new ( $class, %fields ) {
    my $self = bless {
        address      => $fields{address},
        headers      => $fields{headers},
        tls          => $fields{tls},
        heartbeat    => $fields{heartbeat},
        max_message  => $fields{max_message},
        deadline     => now() + $fields{open_timeout},
        open_timeout => $fields{open_timeout},
        state        => 'connecting',
        in           => q{},
        out          => q{},
        heard        => now(),
        waiting_since => now(),
        pinged       => 0,
        in_message   => 0,
        size         => 0,
    }, $class;
    $self->{frame}
        = Protocol::WebSocket::Frame->new( max_payload_size => 0, max_fragments_amount => MAX_FRAGMENTS );
    $self->{socket} = IO::Socket::IP->new(
        PeerHost => $self->{address}{host},
        PeerPort => $self->{address}{port},
        Type     => SOCK_STREAM,
        Blocking => 0,
    ) or $self->_unreachable( $@ || $! );
    return $self;
}

sub is_open      ($self) { return $self->{state} eq 'open' }
sub is_pending   ($self) { return $self->{state} =~ /\A(?:connecting|tls|handshake)\z/ ? 1 : 0 }
sub lost         ($self) { return $self->{lost} }
sub heard        ($self) { return $self->{heard} }
sub fh           ($self) { return $self->{socket} }
sub wants_write  ($self) { return $self->{state} eq 'connecting' || $self->{tls_writes} || length $self->{out} ? 1 : 0 }

# Whether there may be messages in what was read.
sub has_input ($self) {
    return 0 if $self->{incomplete} || length $self->{in} < 2;
    return $self->{state} eq 'open' || $self->{state} eq 'closing' ? 1 : 0;
}

# Whether what was read has waited for longer than that, or is more than should wait.
sub is_behind ( $self, $seconds ) {
    return 0 if !$self->has_input;
    return length $self->{in} > MAX_WAITING || now() - $self->{waiting_since} > $seconds ? 1 : 0;
}

# When `turn` has to be called at the latest.
sub deadline ($self) {
    return $self->{deadline} if $self->{state} ne 'open';
    return $self->{heard} + $self->{heartbeat} / ( $self->{pinged} ? 1 : 2 );
}

# Does what can be done without waiting.
sub turn ($self) {
    return if $self->{lost};
    my $late = now() - $self->deadline;
    $self->_connect  if $self->{state} eq 'connecting';
    $self->_tls      if $self->{state} eq 'tls';
    return if $self->{lost} || $self->{state} eq 'connecting' || $self->{state} eq 'tls';
    $self->_write;
    $self->_read;
    $self->_handshake if $self->{state} eq 'handshake' && !$self->{lost};
    $self->_watch($late);
    return;
}

sub send_text ( $self, $text ) {
    $self->_send( 'text', Encode::encode( 'UTF-8', $text ) );
    $self->_write;
    return;
}

# The next message; undef if none is complete.
sub next_text ($self) {
    while ( defined( my $payload = $self->_next_frame ) ) {
        my $opcode = $self->{opcode};
        if ( $opcode == 1 ) {
            return $payload if $payload !~ /[^\x00-\x7f]/;
            my $text = eval { Encode::decode( 'UTF-8', $payload, Encode::FB_CROAK ) };
            return $text if defined $text;
            $self->_broken( 1007, 'a text that is not UTF-8' );
        }
        elsif ( $opcode == OP_PING ) { $self->_send( 'pong', $payload ); $self->_write }
        elsif ( $opcode == OP_CLOSE ) { $self->_closed_by_server($payload) }
        return if $self->{lost};
    }
    return;
}

# Says goodbye. The connection is lost when the server has answered, or after two seconds.
sub say_goodbye ( $self ) {
    return if $self->{lost} || $self->{state} eq 'closing';
    return $self->_lose('the client closed the connection') if $self->{state} ne 'open';
    $self->_send( 'close', pack 'n', 1000 );
    $self->{state}    = 'closing';
    $self->{deadline} = now() + CLOSE_TIMEOUT;
    $self->_write;
    return;
}

# Ends the connection at once.
sub drop ($self) { return $self->{lost} ? undef : $self->_lose('the client closed the connection') }

sub _connect ($self) {
    my $vector = q{};
    vec( $vector, $self->{socket}->fileno, 1 ) = 1;
    if ( select undef, my $ready = $vector, undef, 0 ) {
        if ( !$self->{socket}->connect ) {
            return if $! == EINPROGRESS || $! == EALREADY || $! == EWOULDBLOCK;
            return $self->_unreachable($!);
        }
        setsockopt $self->{socket}, IPPROTO_TCP, TCP_NODELAY, 1;
        return $self->_begin_handshake if !$self->{address}{secure};
        return $self->_begin_tls;
    }
    $self->_unreachable('no connection in time') if now() >= $self->{deadline};
    return;
}

sub _begin_tls ($self) {
    require IO::Socket::SSL;
    IO::Socket::SSL->start_SSL(
        $self->{socket},
        SSL_startHandshake  => 0,
        SSL_verify_mode     => IO::Socket::SSL::SSL_VERIFY_PEER(),
        SSL_verifycn_scheme => 'http',
        SSL_verifycn_name   => $self->{address}{host},
        SSL_hostname        => $self->{address}{host},
        %{ $self->{tls} },
    ) or return $self->_unreachable( IO::Socket::SSL::errstr() );
    $self->{state} = 'tls';
    return;
}

sub _tls ($self) {
    local $SIG{PIPE} = 'IGNORE';
    $self->{tls_writes} = 0;
    return $self->_begin_handshake if $self->{socket}->connect_SSL;
    my $wants = IO::Socket::SSL::errstr();
    if ( $wants == IO::Socket::SSL::SSL_WANT_READ() || $wants == IO::Socket::SSL::SSL_WANT_WRITE() ) {
        $self->{tls_writes} = $wants == IO::Socket::SSL::SSL_WANT_WRITE();
        $self->_unreachable('no TLS in time') if now() >= $self->{deadline};
        return;
    }
    return $self->_unreachable("TLS: $wants");
}

sub _begin_handshake ($self) {
    $self->{state}     = 'handshake';
    $self->{handshake} = Net::RealizeHit::Handshake->new( @{$self}{qw(address headers)} );
    $self->{out}       = $self->{handshake}->request;
    return;
}

sub _handshake ($self) {
    my $error = eval { $self->{handshake}->take( \$self->{in}, $self->{ended} ) } // $@;
    if ( !$error && $self->{handshake}->is_done ) {
        $self->{state} = 'open';
        $self->_hear;
        delete $self->{handshake};
    }
    elsif ($error) { $self->_lose_by($error) }
    elsif ( now() >= $self->{deadline} ) { $self->_unreachable('no answer to the handshake in time') }
    return;
}

sub _hear ($self) {
    $self->{heard}  = now();
    $self->{pinged} = 0;
    return;
}

sub _read ($self) {
    my $most = $self->{state} eq 'open' ? MAX_WAITING + $self->{size} : MAX_WAITING;
    my $begin = length $self->{in};
    return if $begin > $most && !$self->{incomplete};
    $self->{waiting_since} = now() if !$self->has_input;
    my $count;
    while ( length( $self->{in} ) - $begin < READ_AT_ONCE ) {
        $count = sysread $self->{socket}, $self->{in}, READ_SIZE, length $self->{in};
        last if !$count;
        $self->{incomplete} = 0;
        $self->_hear;
    }
    return if $count;
    if ( defined $count ) { $self->{ended} = 1 }
    elsif ( $! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR ) { $self->{ended} = "$!" }

    # What came before the end is looked at first.
    if ( $self->{ended} && $self->{state} ne 'handshake' && !$self->has_input ) {
        $self->_lose( $self->{ended} eq '1' ? 'the connection ended' : "the connection is lost: $self->{ended}" );
    }
    return;
}

sub _write ($self) {
    local $SIG{PIPE} = 'IGNORE';    # a server that has gone must not end the program
    while ( length $self->{out} ) {
        my $count = syswrite $self->{socket}, $self->{out}, READ_SIZE;
        if ( !defined $count ) {
            return if $! == EAGAIN || $! == EWOULDBLOCK || $! == EINTR;
            $self->{out}   = q{};      # reading tells why, and what the server said before
            return;
        }
        substr $self->{out}, 0, $count, q{};
    }
    return;
}

sub _send ( $self, $type, $bytes ) {
    $self->{out} .= Protocol::WebSocket::Frame->new(
        buffer           => $bytes,
        type             => $type,
        masked           => 1,
        max_payload_size => 0,
    )->to_bytes;
    return;
}

# Gives the connection up if nothing comes, and asks for a sign of life before that.
sub _watch ( $self, $late ) {
    return if $self->{lost};
    my $now = now();
    if ( $self->{state} eq 'closing' ) {
        $self->_lose('the client closed the connection') if $now >= $self->{deadline};
        return;
    }
    return if $self->{state} ne 'open';
    my $half = $self->{heartbeat} / 2;

    # A program that was busy has not listened: the server gets half of the time from now on.
    if ( $late > $half / 2 && $self->{heard} < $now - $half ) {
        $self->{heard}  = $now - $half;
        $self->{pinged} = 0;
    }
    my $silence = $now - $self->{heard};
    if ( $silence >= $self->{heartbeat} && $self->{pinged} ) {
        $self->_lose( sprintf 'nothing came for %.1f s', $silence );
    }
    elsif ( $silence >= $half && !$self->{pinged} ) {
        $self->{pinged} = 1;
        $self->_send( 'ping', q{} );
        $self->_write;
    }
    return;
}

# Takes one whole frame out of what was read, and returns the payload of what it completes. The library takes frames
# apart; what a client must refuse is checked here, since the library lets it pass.
sub _next_frame ($self) {
    while (1) {
        return if $self->{lost} || ( $self->{state} ne 'open' && $self->{state} ne 'closing' );
        my $length = $self->_frame_length;
        if ( !defined $length || length $self->{in} < $length ) {
            $self->{incomplete} = 1;
            if ( $self->{ended} && !$self->{lost} ) {
                $self->_lose( $self->{ended} eq '1' ? 'the connection ended' : "the connection is lost: $self->{ended}" );
            }
            return;
        }
        my $bytes = substr $self->{in}, 0, $length, q{};
        my ($first) = unpack 'C', $bytes;
        if ( $first == WHOLE_TEXT && !$self->{in_message} ) {    # the usual case, four times as fast as by the library
            $self->{opcode} = 1;
            return substr $bytes, $self->{head};
        }
        if ( !( $first & 0x08 ) ) {
            $self->{in_message} = $first & 0x80 ? 0 : 1;
            $self->{size}       = $first & 0x80 ? 0 : $self->{size} + $length;
        }
        $self->{frame}->append($bytes);
        my $payload = eval { $self->{frame}->next_bytes };
        return $self->_broken( 1009, 'a message of too many fragments' ) if !defined $payload && $@;
        if ( defined $payload ) {
            $self->{opcode} = $self->{frame}->opcode;
            return $payload;
        }
    }
    return;
}

# The length of the next frame with its head; undef if it is not known yet, or is an error.
sub _frame_length ($self) {
    my $have = length $self->{in};
    return if $have < 2;
    my ( $first, $second ) = unpack 'CC', $self->{in};
    my ( $opcode, $length, $head ) = ( $first & 0x0f, $second & 0x7f, 2 );
    return $self->_broken( 1002, 'a frame with reserved bits' ) if $first & 0x70;
    return $self->_broken( 1002, 'a masked frame' )             if $second & 0x80;
    if ( $opcode & 0x08 ) {
        return $self->_broken( 1002, 'a frame of an unknown kind' )      if $opcode > OP_PONG;
        return $self->_broken( 1002, 'a control frame that is too long' ) if $length > 125 || !( $first & 0x80 );
        return $head + $length;
    }
    return $self->_broken( 1002, 'a frame of an unknown kind' ) if $opcode > 2;
    return $self->_broken( 1002, $opcode ? 'a message within a message' : 'a continuation of nothing' )
        if !$opcode == !$self->{in_message};
    if ( $length == 126 ) {
        return if $have < 4;
        ( $length, $head ) = ( ( unpack 'x2 n', $self->{in} ), 4 );
    }
    elsif ( $length == 127 ) {
        return if $have < 10;
        ( $length, $head ) = ( ( unpack 'x2 Q>', $self->{in} ), 10 );
    }
    return $self->_broken( 1009, "a message with more than $self->{max_message} bytes" )
        if $self->{size} + $length > $self->{max_message};
    $self->{head} = $head;
    return $head + $length;
}

sub _broken ( $self, $code, $what ) {
    $self->_send( 'close', pack 'n', $code );
    $self->_write;
    return $self->_lose("the server sent $what");
}

sub _closed_by_server ( $self, $payload ) {
    my ( $code, $reason ) = unpack 'n a*', $payload;
    $self->_send( 'close', defined $code ? pack 'n', $code : q{} ) if $self->{state} eq 'open';
    $self->_write;
    $reason = Encode::decode( 'UTF-8', $reason // q{} );
    my $text = 'the server closed the connection' . ( defined $code ? " with $code: $reason" : q{} );
    my $delay;
    if ( defined $code && $code == CODE_DRAIN && $reason =~ /\Adelay=([0-9]{1,9})\z/a ) {
        $delay = min( $1 / 1000, MAX_DELAY );
    }
    return $self->_lose(
        $text,
        status      => $code,
        code        => $CODE_OF_STATUS{ $code // 0 },
        retry_after => $delay,
    );
}

sub _unreachable ( $self, $text ) {
    return $self->_lose_by(
        Net::RealizeHit::Error->of(
            'Unavailable',
            code => 'unavailable',
            text => "the server cannot be reached: $text",
        )
    );
}

sub _lose ( $self, $text, %fields ) {
    return $self->_lose_by( Net::RealizeHit::Error->of( 'Disconnected', text => $text, %fields ) );
}

sub _lose_by ( $self, $error ) {
    return if $self->{lost};
    if ( !ref $error ) {
        $error = Net::RealizeHit::Error->of( 'Unavailable', code => 'unavailable', text => $error );
    }
    $self->{lost}  = $error;
    $self->{state} = 'closed';
    $self->{in}    = $self->{out} = q{};
    my $socket = delete $self->{socket};
    if ($socket) {
        $socket->can('stop_SSL') ? $socket->close( SSL_no_shutdown => 1 ) : close $socket;
    }
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Connection - one WebSocket, without waiting

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Client>. L<Protocol::WebSocket> writes the handshake and takes frames apart; this class
moves bytes, checks what the library does not, and notices when the other side is silent.

=head1 METHODS

=head2 new

Begins to connect.

=head2 turn

Does what can be done without waiting.

=head2 next_text

The next message; C<undef> if none is complete.

=head2 send_text

Sends a message.

=head2 say_goodbye

Closes the connection with the code 1000. It is lost when the server has answered, or after two seconds.

=head2 drop

Ends the connection at once.

=head2 is_open

Whether messages can be sent.

=head2 is_pending

Whether it is not open yet.

=head2 lost

The error that ended it; C<undef> while it has not ended.

=head2 heard

When something last came, by the monotonic clock.

=head2 has_input

Whether there may be messages in what was read.

=head2 is_behind

Whether that has waited for longer than so many seconds, or is more than 1 MiB.

=head2 fh

The socket.

=head2 wants_write

Whether C<turn> should be called when the socket can be written.

=head2 deadline

When C<turn> should be called at the latest, by the monotonic clock.

=head2 now

The monotonic clock in seconds.

=cut
