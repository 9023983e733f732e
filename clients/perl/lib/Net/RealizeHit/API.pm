package Net::RealizeHit::API;

use v5.36;

use Encode                    ();
use HTTP::Tiny                ();
use Net::RealizeHit::Backoff  ();
use Net::RealizeHit::Error    ();
use Net::RealizeHit::JSON     ();
use Net::RealizeHit::Pattern  ();
use Net::RealizeHit::Random   ();
use Scalar::Util              qw(looks_like_number);
use Time::HiRes               ();

our $VERSION = '0.1.0';

use constant {
    TRIES          => 3,
    BACKOFF_CAP    => 5,                    # seconds
    REPEAT_WITHIN  => 60,                   # seconds after the first try; servers keep a key for 120
    BATCH_MESSAGES => 10_000,               # of one request, the server's bound
    BATCH_BYTES    => 4 * 1024 * 1024,      # of its body, likewise
    BATCH_FRAME    => 64,                   # bytes around the messages
    MAX_ANSWER     => 64 * 1024 * 1024,
};

my %OPTIONS = map { $_ => 1 } qw(key timeout backoff_base retry_unclear tls http);

sub new ( $class, $url, %options ) {
    for my $name ( keys %options ) {
        _reject("there is no option $name") if !$OPTIONS{$name};
    }
    _reject('the address of the API is not of the form http://host:port/')
        if $url !~ m{\Ahttps?://[^/?\#\s]+(?:/[^?\#\s]*)?\z}i;
    for my $name (qw(timeout backoff_base)) {
        _reject("the option $name is not a positive number")
            if defined $options{$name} && !( looks_like_number( $options{$name} ) && $options{$name} > 0 );
    }
    my $self = bless {
        url           => $url =~ s{/*\z}{/}r,
        timeout       => $options{timeout}      // 10,
        backoff_base  => $options{backoff_base} // 0.25,
        retry_unclear => $options{retry_unclear} // 1,
        headers       => { Accept => 'application/json' },
    }, $class;
    if ( defined $options{key} ) {
        _reject('the API key has a character that is not visible ASCII, or none') if $options{key} !~ /\A[\x21-\x7e]+\z/a;
        $self->{headers}{Authorization} = "Bearer $options{key}";
    }
    $self->{http} = $options{http} // HTTP::Tiny->new(
        agent        => "Net-RealizeHit/$VERSION",
        keep_alive   => 1,
        max_redirect => 0,                             # a redirection could take the key anywhere
        max_size     => MAX_ANSWER,
        timeout      => $self->{timeout},
        verify_SSL   => 1,
        SSL_options  => $options{tls} // {},
    );
    return $self;
}

sub publish ( $self, $pattern, $payload, %options ) {
    return $self->_publish( { pattern => $pattern, payload => $payload, %options } );
}

sub publish_text ( $self, $pattern, $text, %options ) {
    return $self->_publish( { pattern => $pattern, text => $text, %options } );
}

sub publish_many ( $self, $messages ) {
    my @outcomes = ({}) x @{$messages};
    my ( @items, @places, $broken );
    my $size  = 0;
    my $flush = sub {
        return if !@items;
        $broken = $self->_send_batch( \@items, \@places, \@outcomes );
        ( @items, @places ) = ();
        $size = 0;
    };
    for my $place ( 0 .. $#{$messages} ) {
        my $item = eval {
            my $message = $messages->[$place];
            _body( $message, $message->{key} // _new_key() );
        };
        if ( !defined $item ) {
            $outcomes[$place] = { error => _as_error($@) };
            next;
        }
        if ( length $item > BATCH_BYTES - BATCH_FRAME ) {
            $outcomes[$place] = {
                error => Net::RealizeHit::Error->of(
                    'TooLarge',
                    code => 'too-large',
                    text => "the message has ${\length $item} bytes; a batch has at most ${\BATCH_BYTES}",
                )
            };
            next;
        }
        $flush->() if @items == BATCH_MESSAGES || $size + length($item) + 1 > BATCH_BYTES - BATCH_FRAME;
        if ($broken) {
            $outcomes[$place] = {
                error => Net::RealizeHit::Error->of(
                    'Unavailable',
                    code => 'unavailable',
                    text => 'not sent, since an earlier batch failed: ' . $broken->text,
                )
            };
            next;
        }
        push @items,  $item;
        push @places, $place;
        $size += length($item) + 1;
    }
    $flush->();
    return \@outcomes;
}

sub history ( $self, $pattern, %options ) {
    my ( $name, $more ) = grep { defined $options{$_} } qw(since last);
    _reject('history needs either last or since') if !defined $name || defined $more;
    my $text  = Net::RealizeHit::JSON::encode( Net::RealizeHit::Pattern::values_of($pattern) );
    my $query = join q{&}, map {"$_->[0]=" . _uri( $_->[1] ) } [ pat => $text ], [ $name => $options{$name} ];
    my $read  = $self->_request( 'GET', "history?$query" );
    my $messages = ref $read eq 'HASH' ? $read->{messages} : undef;
    Net::RealizeHit::Error->throw( 'Rejected', text => 'the history is not understood' ) if ref $messages ne 'ARRAY';
    return {
        messages => [
            map { { payload => $_->{payload}, position => $_->{at}, exists $_->{pattern} ? ( pattern => $_->{pattern} ) : () } }
            grep { ref eq 'HASH' } @{$messages}
        ],
        ( map { $_ => $read->{$_} } qw(id at first) ),
        more => $read->{more} ? 1 : 0,
        exists $read->{recovered} ? ( recovered => $read->{recovered} ? 1 : 0 ) : (),
    };
}

sub _publish ( $self, $message ) {
    my $key  = $message->{key} // _new_key();
    my $read = $self->_request( 'POST', q{}, body => _body($message), key => $key );
    _unclear('the answer to a publication is not understood') if ref $read ne 'HASH';
    return _result($read);
}

# Sends one batch. Returns an error if nothing more should be sent.
sub _send_batch ( $self, $items, $places, $outcomes ) {
    my $body = '{"messages":[' . join( q{,}, @{$items} ) . ']}';
    my $error;
    my $read = eval { $self->_request( 'POST', 'batch', body => $body ) };
    if ( !defined $read ) { $error = _as_error($@) }
    else {
        my $results = ref $read eq 'HASH' ? $read->{results} : undef;
        if ( ref $results ne 'ARRAY' || @{$results} != @{$items} ) {
            $error = Net::RealizeHit::Error->of( 'PublishUnclear', text => 'the answer to a batch is not understood' );
        }
        else {
            @{$outcomes}[ @{$places} ] = map { _outcome($_) } @{$results};
            return;
        }
    }
    $outcomes->[$_] = { error => $error } for @{$places};
    return $error->name =~ /\A(?:Unavailable|PublishUnclear)\z/ ? $error : undef;
}

sub _outcome ($result) {
    $result = {} if ref $result ne 'HASH';
    return _result($result) if ( $result->{status} // q{} ) eq 'queued';
    return { error => Net::RealizeHit::Error->refusal( $result->{code}, undef, $result->{detail} // 'refused' ) };
}

sub _result ($read) {
    return {
        id    => $read->{id},
        nodes => $read->{nodes},
        defined $read->{at} ? ( at        => $read->{at} ) : (),
        $read->{duplicate}  ? ( duplicate => 1 )           : (),
    };
}

# The JSON of a publication, in UTF-8.
sub _body ( $message, $key = undef ) {
    for my $name ( keys %{$message} ) {
        _reject("a message has no $name") if $name !~ /\A(?:pattern|payload|text|key)\z/;
    }
    _reject('a message has either a payload or a text') if !( exists $message->{payload} xor exists $message->{text} );
    _reject('an idempotency key has 1 to 64 characters of visible ASCII')
        if defined $message->{key} && $message->{key} !~ /\A[\x21-\x7e]{1,64}\z/a;
    my $values = Net::RealizeHit::Pattern::values_of( $message->{pattern} );
    Net::RealizeHit::Pattern::text_of($values);
    my $text = $message->{text};
    if ( exists $message->{payload} ) {
        $text = eval { Net::RealizeHit::JSON::encode( $message->{payload} ) }
            // _reject("the payload cannot be written as JSON: $@");
    }
    elsif ( !defined $text || !Net::RealizeHit::JSON::is_json($text) ) {
        Net::RealizeHit::Error->throw( 'Rejected', code => 'bad-json', text => 'the text of the payload is not JSON' );
    }
    my $pattern = Net::RealizeHit::JSON::encode($values);
    my $more    = defined $key ? q{,"key":} . Net::RealizeHit::JSON::encode("$key") : q{};
    return Encode::encode( 'UTF-8', qq({"pattern":$pattern,"payload":$text$more}) );
}

# Sends a request until it is answered for good, and returns the answer, decoded.
sub _request ( $self, $method, $path, %more ) {
    my $may_repeat = $method eq 'GET' || $self->{retry_unclear};
    my $delays = Net::RealizeHit::Backoff->new( $self->{backoff_base}, BACKOFF_CAP );
    my $start  = _now();
    my $unclear;                            # the error of the latest try that may have published the message
    for my $try ( 1 .. TRIES ) {
        my ( $read, $error ) = $self->_try( $method, $path, @more{qw(body key)} );
        return $read if !$error;
        my $asked = $error->retry_after;
        my $kind  = $error->name;
        my $clear = $kind eq 'RateLimited' || $kind eq 'Unavailable' && !$error->{unclear};
        my $again = $clear || $kind =~ /\A(?:Unavailable|PublishUnclear)\z/ && $may_repeat;
        $unclear = $error if $method ne 'GET' && ( $kind eq 'PublishUnclear' || $error->{unclear} );
        my $delay = $delays->next_delay + ( $asked // 0 );
        my $late  = $unclear && _now() - $start + $delay > REPEAT_WITHIN;

        # A try that published nothing does not say that an earlier one did not.
        die $clear && $unclear || $error if !$again || $try == TRIES || ( $asked // 0 ) > $self->{timeout} || $late;
        Time::HiRes::sleep($delay);
    }
    return;
}

sub _try ( $self, $method, $path, $body, $key ) {
    my %request = ( headers => { %{ $self->{headers} } } );
    $request{headers}{'Idempotency-Key'} = $key if defined $key;
    if ( defined $body ) {
        $request{content} = $body;
        $request{headers}{'Content-Type'} = 'application/json';
    }
    my $answer = $self->{http}->request( $method, $self->{url} . $path, \%request );
    my $status = $answer->{status};
    my $text   = $answer->{content} // q{};
    if ( $status == 599 ) {    # HTTP::Tiny's own
        $text =~ s/\s+\z//;
        my $never_sent = $text =~ /\A(?:Could\ not\ connect|SSL\ connection\ failed|IO::Socket::SSL|Net::SSLeay)/x;
        return (
            undef,
            Net::RealizeHit::Error->of(
                $never_sent || $method eq 'GET' ? 'Unavailable' : 'PublishUnclear',
                code => 'unavailable',
                text => $never_sent ? "the server cannot be reached: $text" : "the answer did not come: $text",
            )
        );
    }
    if ( $status < 200 || $status > 299 ) {
        my $error = Net::RealizeHit::Error->problem( $status, $answer->{reason} // q{}, $text, $answer->{headers}{'retry-after'} );

        # A 503 that says when to come back published nothing; one that does not may have.
        if ( $status == 503 && !defined $error->retry_after ) { $error->{unclear} = 1 }
        return ( undef, $error );
    }
    return ( Net::RealizeHit::JSON::decode_bytes($text) // q{}, undef );
}

sub _now () { return Time::HiRes::clock_gettime( Time::HiRes::CLOCK_MONOTONIC() ) }

sub _new_key () { return unpack 'H*', Net::RealizeHit::Random::bytes(16) }

sub _uri ($text) {
    return Encode::encode( 'UTF-8', $text ) =~ s/([^0-9A-Za-z\-._~])/sprintf '%%%02X', ord $1/aegr;
}

sub _as_error ($error) {
    return $error if ref $error && $error->isa('Net::RealizeHit::Error');
    return Net::RealizeHit::Error->of( 'Rejected', code => 'bad-request', text => "$error" );
}

sub _unclear ($text) { return Net::RealizeHit::Error->throw( 'PublishUnclear', text => $text ) }

sub _reject ($text) { return Net::RealizeHit::Error->throw( 'Rejected', code => 'bad-request', text => $text ) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::API - publishes over HTTP

=head1 SYNOPSIS

    use v5.36;
    use Net::RealizeHit::API;

    my $api = Net::RealizeHit::API->new('http://127.0.0.1:8080/');
    my $result = $api->publish( { kind => 'news' }, { title => 'hello' } );
    say "reached $result->{nodes} servers";

=head1 DESCRIPTION

The client keeps its connection, heeds the proxies of the environment, and does not follow redirections. It blocks while it
waits for an answer. A program may fork: each process makes a connection of its own.

All methods die with a L<Net::RealizeHit::Error>.

=head2 What is tried again

Every publication has an idempotency key, so that the server publishes it once even if the client sends it again. It is sent
three times at most, after a random delay that grows, and not before the time that the server asks for. It is sent again if
the server cannot be reached, if the answer was lost, and after the answers 429 and 503.

If the last answer was lost, or was a 503 without C<Retry-After>, the message may have been published. The client then dies
with C<PublishUnclear> or C<Unavailable>.

An older server that does not keep idempotency keys could publish the message twice. For such a server set
C<< retry_unclear => 0 >>: the client then sends again only what the server certainly did not publish.

=head1 METHODS

=head2 new

    my $api = Net::RealizeHit::API->new( $url, %options );

The address is that of the API with its prefix. Options:

=over

=item C<key>

The API key, sent as C<Authorization: Bearer>.

=item C<timeout> (10)

Seconds for connecting and for each wait for data; also the longest time that a server can ask to wait before the next try.

=item C<backoff_base> (0.25)

The first bound in seconds of the delay before the next try.

=item C<retry_unclear> (1)

See L</What is tried again>.

=item C<tls>

A reference to a hash of options of L<IO::Socket::SSL>, such as C<< { SSL_ca_file => 'ca.pem' } >>. Certificates are
verified.

=item C<http>

An object with the method C<request> of L<HTTP::Tiny>, used instead of one.

=back

=head2 publish

    my $result = $api->publish( $pattern, $payload, key => $idempotency_key );

Publishes one message. The L<pattern|Net::RealizeHit::Pattern> is a reference to a hash; the payload is what
L<Cpanel::JSON::XS> can write. The key (up to 64 characters) may be left out; the client makes one. Returns a reference to a
hash: C<id>, the pattern's label on the wire; C<nodes>, how many subscribing servers the broker reached, not how many
clients; C<at>, the message's position, if the pattern has a history; C<duplicate>, true if a message with this key was
published before.

=head2 publish_text

    my $result = $api->publish_text( $pattern, '{"price": 10.50}' );

As C<publish>, with a payload that is JSON already. It is passed on unchanged. It is a text of characters, not of bytes.

=head2 publish_many

    my $outcomes = $api->publish_many( [
        { pattern => { kind => 'news' }, payload => 1 },
        { pattern => { kind => 'news' }, text    => '2.0', key => 'order-17' },
    ] );

Publishes any number of messages in order, in requests of up to 10,000 messages or 4 MiB. Returns a reference to a list with
an outcome for each message: what C<publish> would have returned, or C<< { error => $error } >>. A message that is refused
does not affect the others. After a request that failed because the server is not available, the rest is not sent.

=head2 history

    my $history = $api->history( $pattern, last  => 10 );
    my $history = $api->history( $pattern, since => $position );

The last messages of a pattern that has a history, or those after a position: a reference to a hash with C<messages>, a
reference to a list of C<< { payload => ..., position => ... } >>, the oldest first, each with C<pattern> if the history is
that of a pattern with wildcards; C<at>, the position of the last message that the server has; C<first>, the offset of the
oldest one that it keeps; C<more>, true if there are further messages (ask again with the position of the last one); and
with C<since> also C<recovered>, true if nothing after the position is missing. If no rule of the server keeps a history of
the pattern, the method dies with C<Rejected> and the code C<no-history>.

=cut
