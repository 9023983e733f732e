package Net::RealizeHit::Client;

use v5.36;

use List::Util                    qw(min);
use Net::RealizeHit::Backoff      ();
use Net::RealizeHit::Connection   ();
use Net::RealizeHit::Error        ();
use Net::RealizeHit::Handshake    ();
use Net::RealizeHit::Pattern      ();
use Net::RealizeHit::Renewal      ();
use Net::RealizeHit::Schedule     ();
use Net::RealizeHit::Session      ();
use Net::RealizeHit::Subscription ();
use Scalar::Util                  qw(looks_like_number weaken);

our $VERSION = '0.1.0';

use constant {
    STABLE_AFTER => 10,        # seconds; a connection that is lost sooner does not reset the back-off
    BEHIND_AFTER => 10,        # seconds that messages wait to be looked at before full queues drop
    CALL_TIME    => 0.05,      # seconds that callbacks get in one turn
    READ_AFTER   => 1,         # seconds after which more is read, though not all that was read has been looked at
};

my %DEFAULTS = (
    open_timeout     => 10,
    response_timeout => 10,
    heartbeat        => 60,
    backoff_base     => 0.25,
    backoff_cap      => 20,
    queue            => 1024,
    max_message      => 16 * 1024 * 1024,
);
my %CALLBACKS = map { $_ => 1 } qw(on_connected on_disconnected on_expiring on_note on_error on_ended);
my %SUBSCRIBE_OPTIONS = map { $_ => 1 }
    qw(since last offsets every queue wait on_ready on_message on_state on_gap on_recovered on_error);

sub now () { return Net::RealizeHit::Schedule::now() }

sub new ( $class, $url, %options ) {
    my $address = Net::RealizeHit::Handshake::address_of($url)
        or _reject('the address of the WebSocket is not of the form ws://host:port/ws');
    my $self = bless {
        %DEFAULTS,
        address  => $address,
        headers  => {},
        tls      => {},
        schedule => Net::RealizeHit::Schedule->new,
        turned   => 0,

        behind_after => BEHIND_AFTER,
    }, $class;
    for my $name ( keys %options ) {
        my $value = $options{$name};
        my $known = exists $DEFAULTS{$name} || $CALLBACKS{$name} || $name =~ /\A(?:token|headers|tls)\z/;
        _reject("there is no option $name") if !$known;
        next                                if !defined $value;
        _reject("the option $name is not a positive number")
            if exists $DEFAULTS{$name} && !( looks_like_number($value) && $value > 0 );
        _reject("the option $name is not a function") if $CALLBACKS{$name} && ref $value ne 'CODE';
        $self->{$name} = $value;
    }
    $self->{delays} = Net::RealizeHit::Backoff->new( @{$self}{qw(backoff_base backoff_cap)} );
    $self->_make_session;
    return $self;
}

sub _make_session ($self) {
    my %common = map { $_ => $self->{$_} } qw(schedule response_timeout backoff_base backoff_cap);
    my $client = $self;
    weaken $client;    # the client holds both
    $self->{session} = Net::RealizeHit::Session->new(
        %common,
        retry       => Net::RealizeHit::Backoff->new( @{$self}{qw(backoff_base backoff_cap)} ),
        on_expiring => sub ($seconds) {
            $client->_tell( on_expiring => $seconds );
            $client->{renewal}->begin($seconds) if ref $client->{token} eq 'CODE';
        },
        on_note => sub ($note) { $client->_tell( on_note => $note ) },
    );
    $self->{renewal} = Net::RealizeHit::Renewal->new(
        %common,
        session  => $self->{session},
        token    => sub () { $client->_token },
        on_error => sub ($error) { $client->_tell( on_error => $error ) },
    );
    return;
}

sub connect ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    $self->start;
    $self->_turn_or_wait while !$self->{was_connected} && !$self->{ended};
    die $self->{error} if $self->{ended} && $self->{error};
    _closed()          if $self->{ended};
    return $self;
}

sub start ($self) {
    _closed() if $self->{closing};
    return $self if $self->{started}++;
    my $error = $self->_dial;
    if ($error) {
        $self->_finish($error);
    }
    return $self;
}

sub is_connected ($self) { return $self->{connection} && $self->{connection}->is_open ? 1 : 0 }
sub ended        ($self) { return $self->{ended} ? 1 : 0 }
sub error        ($self) { return $self->{error} }

sub close ( $self, %options ) {    ## no critic (ProhibitBuiltinHomonyms ProhibitAmbiguousNames)
    return if $self->{ended};
    $self->{closing} = 1;
    if ( !$self->{connection} ) {
        $self->_finish(undef);
    }
    else {
        $self->{connection}->say_goodbye;
        $self->_after_loss if $self->{connection}->lost;
    }
    return if exists $options{wait} && !$options{wait};
    $self->_turn_or_wait while !$self->{ended};
    $self->{schedule}->call_all;
    return;
}

sub subscribe ( $self, $pattern, %options ) {
    for my $name ( keys %options ) {
        _reject("there is no option $name of a subscription") if !$SUBSCRIBE_OPTIONS{$name};
    }
    my $values = Net::RealizeHit::Pattern::values_of($pattern);
    my $text   = Net::RealizeHit::Pattern::text_of($values);
    my $wait   = delete $options{wait}     // 1;
    my $ready  = delete $options{on_ready} // sub { };
    my %with   = map { $_ => delete $options{$_} } qw(since last offsets every);
    $options{queue} ||= $self->{queue};
    die $self->{error} if $self->{ended} && $self->{error};
    _closed() if $self->{closing} || $self->{ended};
    $wait ? $self->connect : $self->start;
    my $session = $self->{session};
    my $topic   = $session->topic($text);
    _reject("this client has a subscription to $text; since and last need the first one")
        if $topic && ( defined $with{since} || $with{last} );
    _reject("this client has a subscription to $text with another time every")
        if $topic && ( $topic->{every} // 0 ) != ( $with{every} // 0 );
    $topic //= $session->add_topic( $text, $values, %with );
    my $subscription = Net::RealizeHit::Subscription->new(
        %options,
        client  => $self,
        topic   => $topic,
        pattern => $pattern,
    );
    my ( $done, $error );
    $session->join_topic(
        $topic,
        $subscription,
        sub ($why) {
            ( $done, $error ) = ( 1, $why );
            $self->_later( sub { $ready->( $subscription, $why ) } );
        }
    );
    return $subscription if !$wait;
    $self->_turn_or_wait( undef, $subscription ) while !$done;
    die $error if $error;
    return $subscription;
}

sub process ($self) {
    $self->_turn(undef);
    return;
}

sub run ( $self, $seconds = undef ) {
    $self->start if !$self->{ended};
    my $deadline = defined $seconds ? now() + $seconds : undef;
    local $self->{stopping} = 0;
    while ( !$self->{ended} && !$self->{stopping} ) {
        last if !$self->_turn_or_wait($deadline);
    }
    $self->{schedule}->call_all if $self->{ended};
    return;
}

sub stop ($self) { $self->{stopping} = 1; return }

sub fh          ($self) { return $self->{connection} && $self->{connection}->fh }
sub wants_write ($self) { return $self->{connection} && $self->{connection}->wants_write ? 1 : 0 }

sub timeout ($self) {
    return 0 if $self->{schedule}->has_calls;
    my $connection = $self->{connection};
    return 0 if $connection && $connection->has_input;
    my $at = min( grep {defined} $self->{schedule}->next_at, $connection ? $connection->deadline : undef ) // return;
    my $left = $at - now();
    return $left > 0 ? $left : 0;
}

# A turn, and before it a wait for something to do. False if there is nothing to do until the deadline.
sub _turn_or_wait ( $self, $deadline = undef, $reader = undef ) {
    my $wait = $self->timeout;
    if ( defined $deadline ) {
        my $left = $deadline - now();
        if ( $left <= 0 ) {
            $self->_turn($reader);
            return 0;
        }
        $wait = defined $wait ? min( $wait, $left ) : $left;
    }
    if ( !defined $wait || $wait > 0 ) {
        my ( $read, $write ) = ( q{}, q{} );
        if ( my $socket = $self->fh ) {
            vec( $read,  $socket->fileno, 1 ) = 1;
            vec( $write, $socket->fileno, 1 ) = 1 if $self->wants_write;
        }
        elsif ( !defined $wait ) {
            return 0;    # nothing can ever happen
        }
        select $read, $write, undef, $wait;    # a signal ends it early, which does no harm
    }
    $self->_turn($reader);
    return 1;
}

# Does what can be done without waiting. A reader is a subscription that is read now: its messages stay where they are
# until it has taken those that came before.
sub _turn ( $self, $reader ) {
    $self->{schedule}->run_timers;
    my $connection = $self->{connection};
    if ($connection) {
        my $was_open = $connection->is_open;
        if ( !$connection->has_input || now() - $self->{turned} > READ_AFTER ) {
            $connection->turn;
            $self->{turned} = now();
        }
        if ( $connection->is_open && !$was_open ) { $self->_attached }
        $self->_examine( $connection, $reader );
        $self->_after_loss if $self->{connection} && $self->{connection}->lost;
    }
    $self->{schedule}->call_some;
    return;
}

# Looks at the messages in what was read. Callbacks and the reader take each one before the next; if they are too slow for
# that, the messages go into the queues, and full queues drop.
sub _examine ( $self, $connection, $reader ) {
    my $end    = now() + CALL_TIME;
    my $behind = $connection->is_behind( $self->{behind_after} );
    my ( $session, $schedule ) = @{$self}{qw(session schedule)};
    while ( defined( my $text = $connection->next_text ) ) {
        $session->take($text);
        next if $behind;
        next if !$reader && !$schedule->has_calls;
        $schedule->call_some($end);
        return if $reader && @{ $reader->{waiting} } || $schedule->has_calls || now() > $end;
    }
    return;
}

sub _tell ( $self, $name, @values ) {
    my $call = $self->{$name} // return;
    return $self->_later( sub { $call->( @values, $self ) } );
}

sub _later ( $self, $call ) { return $self->{schedule}->later($call) }

sub _unsubscribe ( $self, $subscription, %options ) {
    return if $subscription->{ended};
    my ( $done, $error );
    $self->{session}->unsubscribe(
        $subscription,
        sub ($why) {
            ( $done, $error ) = ( 1, $why );
            my $on_done = $options{on_done} // return;
            $self->_later( sub { $on_done->($why) } );
        }
    );
    return if exists $options{wait} && !$options{wait};
    $self->_turn_or_wait while !$done && !$self->{ended};
    $self->{schedule}->call_some;
    die $error if $error;
    return;
}

# Connecting, and losing a connection.

# Begins to connect; returns an error if there is no token.
sub _dial ($self) {
    my %headers = %{ $self->{headers} };
    if ( defined $self->{token} ) {
        my ( $token, $error ) = $self->_token;
        return $error if $error;
        $headers{Authorization} = "Bearer $token";
    }
    $self->{connection} = Net::RealizeHit::Connection->new(
        address => $self->{address},
        headers => [ map { $_ => $headers{$_} } sort keys %headers ],
        map { $_ => $self->{$_} } qw(tls heartbeat max_message open_timeout),
    );
    return;
}

sub _token ($self) {
    my $token = eval { ref $self->{token} ? $self->{token}->() : $self->{token} };
    my $why   = $@;
    return $token if defined $token && $token =~ /\A[\x21-\x7e]+\z/a;
    $why = 'it has a character that is not visible ASCII, or none' if !$why;
    return ( undef, Net::RealizeHit::Error->of( 'Token', text => "there is no token: $why" ) );
}

sub _attached ($self) {
    $self->{was_connected} = 1;
    $self->{connected_at}  = now();
    $self->_tell('on_connected');
    $self->{session}->attach( $self->{connection} );
    return;
}

sub _after_loss ($self) {
    my $connection   = delete $self->{connection};
    my $lost         = $connection->lost;
    my $connected_at = delete $self->{connected_at};
    if ($connected_at) {
        $self->{delays}->reset_attempts if now() - $connected_at >= STABLE_AFTER;
        $self->{renewal}->give_up;
        $self->{session}->detach( $connection->heard, $self->{closing} );
        $self->_tell( on_disconnected => $lost );
    }
    my $status = $lost->status // 0;
    my $final
        = $connected_at
        ? $status >= 4500 && $status < 5000 && ( $status != 4501 || ref $self->{token} ne 'CODE' )
        : !$self->{was_connected} || $status == 401 || $status == 403;
    if ( $self->{closing} ) { $self->_finish(undef) }
    elsif ($final)          { $self->_finish($lost) }
    else {
        $self->_tell( on_error => $lost ) if !$connected_at;
        my $delay = $connected_at ? $lost->retry_after : undef;
        $self->_return_after( $delay // $self->{delays}->next_delay );
    }
    return;
}

sub _return_after ( $self, $delay ) {
    $self->{schedule}->timer(
        $delay,
        sub {
            return if $self->{ended};
            my $error = $self->_dial // return;
            $self->_tell( on_error => $error );
            $self->_return_after( $self->{delays}->next_delay );
        }
    );
    return;
}

# Ends the client: closed by the program if there is no error.
sub _finish ( $self, $error ) {
    $self->{ended}   = 1;
    $self->{closing} = 1;
    $self->{error}   = $error;
    $self->{session}->end_all($error);
    $self->{schedule}->cancel_all;
    if ($error) {
        $self->_tell( on_error => $error ) if $self->{was_connected};
        $self->_tell( on_ended => $error );
    }
    return;
}

sub _closed () { return Net::RealizeHit::Error->throw( 'Closed', text => 'the client is closed' ) }

sub _reject ($text) { return Net::RealizeHit::Error->throw( 'Rejected', code => 'bad-request', text => $text ) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Client - subscribes over a WebSocket, and stays subscribed

=head1 SYNOPSIS

    use v5.36;
    use Net::RealizeHit::Client;

    my $client = Net::RealizeHit::Client->new('ws://127.0.0.1:8080/ws');

    my $news = $client->subscribe( { kind => 'news' } );
    while ( my $message = $news->next ) {
        say $message->text;
    }

    # or with functions
    $client->subscribe( { kind => 'sport' }, on_message => sub ( $message, $subscription ) { say $message->text } );
    $client->run;

=head1 DESCRIPTION

The client works inside its methods: while the program is in C<next>, C<run>, C<subscribe> or C<process>, it reads, calls
the program's functions, and connects again. It has no threads. If the program does something else for long, messages wait
in the socket, and the server may close the connection with 4002 or 4003; the client then comes back at the next call.

=head2 Lost connections

The first attempt to connect is not repeated, so that a wrong address shows. From then on the client connects again by
itself, after a random time up to a bound that doubles from 0.25 s to 20 s, or after the delay that a server which goes away
asks for. All subscriptions are asked for again at once. Each tells a gap, unless the server says that nothing was missed.

It ends if the server closes the connection with a code from 4500 to 4999, except 4501 where the token is a function, and
if the handshake is refused with 401 or 403.

=head1 METHODS

=head2 new

    my $client = Net::RealizeHit::Client->new( $url, %options );

Makes a client and does not connect yet. The address is C<ws://host:port/ws>, or C<wss://> for TLS. Options; times are in
seconds and may be fractions:

=over

=item C<token>

Who the client is, a JSON Web Token: a text, or a function that returns one. The function is called for each connection and
before a token ends. The token is sent in the header C<Authorization>.

=item C<open_timeout> (10)

For connecting and the handshake.

=item C<response_timeout> (10)

For the answer to a subscription.

=item C<heartbeat> (60)

A connection on which nothing came for so long is given up. A ping is sent after half of it.

=item C<backoff_base> (0.25), C<backoff_cap> (20)

The first and the last bound of the time before connecting again.

=item C<queue> (1024)

How many messages may wait in each subscription. When a queue is full, the oldest are dropped and counted, and a gap is told.
Before that, up to 1 MiB that was read waits for up to 10 s, so that a reader or function that keeps up loses nothing.

=item C<max_message> (16 MiB)

The largest message in bytes that is accepted.

=item C<headers>

A reference to a hash of further headers of the handshake.

=item C<tls>

A reference to a hash of options of L<IO::Socket::SSL>, such as C<< { SSL_ca_file => 'ca.pem' } >>. Certificates are
verified.

=item C<on_connected> C<< ->($client) >>

The connection is there, the first time and each time it is there again.

=item C<on_disconnected> C<< ->($error, $client) >>

The connection is lost; C<< $error->status >> is the close code if there was one.

=item C<on_expiring> C<< ->($seconds, $client) >>

The token ends in so many seconds.

=item C<on_note> C<< ->($note, $client) >>

An operator sent something, any JSON value.

=item C<on_error> C<< ->($error, $client) >>

Connecting again or renewing the token failed. It is tried again.

=item C<on_ended> C<< ->($error, $client) >>

The client has given up. Not after C<close>.

=back

A function that dies is warned of, and ends nothing.

=head2 connect

Connects and waits until that is done. Dies with a L<Net::RealizeHit::Error> if it cannot. C<subscribe> does it if the
program has not. Returns the client.

=head2 start

Begins to connect and does not wait.

=head2 subscribe

    my $subscription = $client->subscribe( $pattern, %options );

Subscribes and waits until the server has confirmed it: nothing that is published from then on is missed. Returns a
L<Net::RealizeHit::Subscription>. Dies with an error, after C<response_timeout> with C<Timeout>. Options:

=over

=item C<since>

A position: what came after it is sent first, or a gap is told.

=item C<last>

How many of the last messages are sent first.

=item C<offsets>

Asks for positions, by which the subscription resumes after a lost connection. C<since> and C<last> imply it. A server
without history ignores the three.

=item C<every>

Lets the server send at most one message in so many milliseconds, always the newest. Subscriptions of a client to one pattern
have the same; it excludes C<since>, C<last> and C<offsets>.

=item C<queue>

As that of the client, for this subscription.

=item C<on_message> C<< ->($message, $subscription) >>

Takes the messages. Without it, C<next> reads them.

=item C<on_state> C<< ->($state, $subscription) >>

The state changed.

=item C<on_gap> C<< ->($gap, $subscription) >>

Messages may be missing: C<< $gap->{seconds} >> is how long the connection or the broker was lost; or C<< $gap->{dropped} >>
how many messages the full queue dropped.

=item C<on_recovered> C<< ->($subscription) >>

The subscription is in force again, and nothing was missed.

=item C<on_error> C<< ->($error, $subscription) >>

The server ended the subscription, or sent something that cannot be understood.

=item C<wait> (1), C<on_ready> C<< ->($subscription, $error) >>

With C<< wait => 0 >> the method returns at once, and C<on_ready> tells the outcome: C<$error> is C<undef> where the
subscription is in force.

=back

=head2 run

    $client->run;
    $client->run($seconds);

Works until the client has ended, C<stop> is called, or that time is over.

=head2 stop

Ends C<run>. For functions of the program.

=head2 close

Ends all subscriptions and the connection, and waits for the server's goodbye, two seconds at most. With C<< wait => 0 >>
it does not wait.

=head2 is_connected

Whether a connection is there.

=head2 ended

Whether the client has ended.

=head2 error

The error for which it has ended; C<undef> while it has not, and after C<close>.

=head2 process

Does what can be done without waiting. With C<fh>, C<wants_write> and C<timeout> a client becomes part of another event loop:
call C<process> when C<fh> can be read, when it can be written and C<wants_write> is true, and after C<timeout> seconds.
All three change with each call. F<eg/mojo.pl> does it with L<Mojo::IOLoop>.

=head2 fh

The socket; C<undef> while there is none.

=head2 wants_write

Whether C<process> should be called when the socket can be written.

=head2 timeout

After how many seconds C<process> should be called at the latest; C<undef> if it need not be.

=head2 now

The monotonic clock in seconds.

=cut
